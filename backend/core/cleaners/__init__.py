"""What may be wrong with rows that can be read: one file a kind of finding, one line of the catalog each."""
