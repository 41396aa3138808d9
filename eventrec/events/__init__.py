"""What an application says happened, and how it becomes a record."""
