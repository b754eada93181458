"""The way of a request to a replica, and of the answer back."""
