"""What a run found: terminal, JSON, JUnit."""
