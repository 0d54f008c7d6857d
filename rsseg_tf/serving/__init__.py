"""Model servers: one with the interface of TensorFlow Serving, a client for both, and files to deploy the latter."""
