"""Classifiers of pictures, with the models of timm."""
