"""An index of vectors: exact search with filters, codes with rescoring, a calibrated cut-off."""
