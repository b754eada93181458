"""What the platform tells about itself: counters for Prometheus."""
