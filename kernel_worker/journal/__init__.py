"""What outlives the broker: facts about spawned calls, in SQLite, behind a thread of their own."""
