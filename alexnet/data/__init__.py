"""From labelled pictures to batches on the device. Knows nothing of the network."""
