"""Sets that do not fit a disk: tar shards with an index, in a folder or behind a URL.

``data_prep/shard.py`` writes them (:mod:`.write`), and ``--data`` takes them in place of what they were made of. A set
of shards is a folder:

    shards.json              what there is: kind, splits, shards, columns of the index, their sizes and digests
    index/*.npy              the columns, one row a sample (:mod:`.index`)
    index/skipped.jsonl      files that were left out, and why
    train-00000.tar ...      the samples, as plain tar files; members are named by row: 000000000042.jpg

Samples of one split lie in shards of their own. The number of a sample (its ``id``, from which masks and crops follow)
is the same as before: its place among the sorted names of its split.
"""

HEADER = "shards.json"
"""The file that makes a folder a set of shards; written last."""
INDEX = "index"
"""Folder of the columns."""
