"""`eventrec record`: lines of JSON or CloudEvents into a destination."""
