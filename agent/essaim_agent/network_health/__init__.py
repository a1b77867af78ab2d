"""How this node's networks are: what was not as wanted, who answers through them, and the report.

checked     what one comparison of the kernel's tables found
packets     ICMP echoes, as bytes (RFC 792)
rounds      whom to ask next, and what the answers say
prober      asks, through each overlay
reporter    tells the masters, every few seconds and when problems come or go
"""
