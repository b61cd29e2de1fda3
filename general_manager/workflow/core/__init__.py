"""The foundation: identifiers, encoding, connections, transactions, leases."""
