"""The families besides text, beside the libraries called directly and beside peers."""
