"""The vision family: pictures that are made, read and recognised; those of clients with care."""
