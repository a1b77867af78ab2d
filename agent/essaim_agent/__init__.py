"""The agent of a node: runs the tasks it is assigned, and tells what it sees."""
