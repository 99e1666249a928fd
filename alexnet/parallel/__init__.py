"""One network on several processes: columns apart, batches apart, or both (sections 3.2 and 3.5; Krizhevsky 2014)."""
