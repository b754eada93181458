"""How much memory there is and how much of it models need. What to do about it is the core's business."""
