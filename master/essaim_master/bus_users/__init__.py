"""Who may log in to the bus servers, kept as the state says, and what becomes of who floods them.

local_server  the bus server beside this master: its file of users, its signal, what it shows
keeper        has that server know the users of the state
everywhere    whether all masters' servers know them
follower      the same for the server beside a master that stands by, which has no state
floods        whose connections carry more than an agent has to say (pure)
flood_guard   looks, shuts out, and has it written into the state
suspension    the writes of that, and of the way back (pure)
parts         puts them together
"""
