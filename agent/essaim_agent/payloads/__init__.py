"""Secrets and configs on a node: from the masters into memory, from there into files of a tmpfs.

    references   which files a task is to have, by its spec; decides
    source       whom the data is asked of; `master_payloads` is the real one
    store        the data in memory, while a task of this node uses it
    tmpfs        the file system that the files are on
    files        the files of each task

What stands here never reaches a disk, the journal, a log or an error text: errors name the secret.
"""
