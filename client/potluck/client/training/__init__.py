"""The one place in the client that knows torch: base models, batches, adapters, the training loop."""
