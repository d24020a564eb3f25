"""What two or more services need; nothing here belongs to a single one."""
