"""The command line. One command group per file, each imported only when it is called for."""
