"""Sparse dictionaries of what recurrent layers write (J. Young, "WriteSAE", arXiv 2605.12770): capture, train, substitute."""
