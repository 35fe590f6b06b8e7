"""The network of section 3 of the paper: its layers, its graph and the devices of its towers."""
