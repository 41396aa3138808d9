"""What handlers for HTTP destinations share: a client that no answer can hurt, its options, what an answer means.

A handler makes an `HTTPClient` (`client.py`) for one place, scheme, host and port, opens and closes it with itself, and
calls `send`. What comes back is an `Answer` with a status of 2xx, or a `DeliveryError` that says what to do:

what happens                                                           what is raised
not reached, TLS broken off, reset, no answer in time, not HTTP        TransientError
a certificate that is not trusted, a proxy that refuses                PauseError
a status other than 2xx                                                as `meaning.py` says
307 or 308 to the same scheme, host and port                           nothing: it is followed, five times at most
any other redirect                                                     PauseError
2xx whose body is cut short, broken, trickles, or is in an encoding
    that was not asked for; longer than `max_answer`                   TransientError; PauseError

The last line holds where the caller needs the body; else a 2xx counts as soon as its headers are here. Whether the body
of a 2xx is what the protocol promises, and what an error inside of it means, is for the caller to say.

No text of an error holds a credential: `HTTPClient` takes out what it was told to keep secret, also where an answer
quotes it. `options.py` is what a URL may say of timeouts, TLS and proxies. `client.py` needs the extra `http`.
"""

from eventrec_handlers._http.meaning import MAX_QUOTED, MAX_RETRY_AFTER, error_of, retry_after

__all__ = ["MAX_QUOTED", "MAX_RETRY_AFTER", "error_of", "retry_after"]
