"""Models: one file per paper; this table names them all."""
