"""The overlay of a node. Read in this order: tables (what is wanted), plan (what to do about it),
firewall, then the drivers: rtnetlink (bytes), netlink, namespaces, packet_filter, task_networks."""
