"""What is wrong with a configuration: its types, its targets, what its values say together."""
