"""From labeled images to batches on the device. Nothing here knows the network."""
