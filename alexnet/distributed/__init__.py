"""One network on several processes (sections 3.2 and 3.5; Krizhevsky 2014).

Ranks share the columns of the network, the batch, or both.
"""
