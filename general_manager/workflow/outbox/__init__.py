"""The transactional outbox: events are stored with the change, claimed, delivered, settled."""
