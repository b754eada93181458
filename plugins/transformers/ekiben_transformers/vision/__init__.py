"""Models that say what is in a picture: classifiers, detectors, and those that choose among any words."""
