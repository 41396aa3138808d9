"""`catalogue`: what an application declares about its events, for other programs and for reviewers of a change."""
