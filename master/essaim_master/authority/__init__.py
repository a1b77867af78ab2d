"""The cluster's authority: who is let in, who stays, and how the authority itself is replaced
(record 0045).

standing    what a certificate is worth, by the state                              decides
admission   who joins: identities to write, or a refusal in words                  decides
renewals    another certificate for an identity, and its first use                 decides
rotation    the steps from one authority to the next                               decides
vault       the authority's key and the join secrets, sealed in the state and opened in memory
founding    what `cluster init` left in the identity directory, written into the state
desk        carries out what the routes ask for: reads the state, signs, commits
throttle    how often strangers may ask
"""
