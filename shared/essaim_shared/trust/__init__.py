"""Who is who in a cluster, and how the others know it (record 0040).

roles           what a certificate can be for
certificates    the cluster's authority, requests, and what it signs
tokens          join tokens, and tokens of users
bus_keys        the keys with which processes log in to the bus
identity        the directory in which one process keeps all of its own
tls             the contexts of its connections, renewed while it runs
record_cipher   what masters seal on their disks (record 0044)
joining         what a machine that joins or renews says to a master, and is told
renewal         keeps the identity of a running process good
apart           what needs the library of certificates, in a process of its own
"""
