"""Generated from the .proto files beside it; see docs/protocol.md."""
