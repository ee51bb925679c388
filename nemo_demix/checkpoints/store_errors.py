"""What goes wrong between here and an object store, as one line that names the address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nemo_demix.errors import CheckpointError, StackError

# What an error is called, by the library or by the store, and what it means. The first that is found is told.
_MEANINGS = (
    ({"NoSuchBucket"}, "there is no such bucket; correct the address"),
    (
        {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
         "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"},
        "no credentials were found; give them as to any AWS tool (AWS_PROFILE, ~/.aws, the machine's role), or in the "
        "profile of MSC_CONFIG",
    ),
    (
        {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"},
        "the store does not accept the credentials that were found; renew them",
    ),
    (
        {"AccessDenied", "PermissionError", "401", "403"},
        "no rights there (or no such object: stores say it in the same words); ask for those to read and list it, and "
        "to write where it is an output",
    ),
    ({"InvalidRange", "416"}, "has become shorter since it was looked at; use a checkpoint that nothing writes to"),
    (
        {"RetryableError", "EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "SSLError",
         "ReadTimeoutError", "ProxyConnectionError", "HTTPClientError", "ResponseStreamingError", "ConnectionError",
         "IncompleteReadError"},
        "the connection was lost, or the store did not answer, again and again; when it does, the same command goes on",
    ),
    (
        {"ModuleNotFoundError", "ImportError"},
        "multi-storage-client lacks a package for this kind of store; pip install 'nemo-demix[store]' brings s3's",
    ),
)  # fmt: skip


@contextmanager
def asking(path: Path) -> Iterator[None]:
    """Turn what goes wrong between here and a store into one line. That there is no object stays as it is.

    Raises:
        CheckpointError: naming the address.
        FileNotFoundError: if the store says so, and has such a bucket.
    """
    try:
        yield
    except (CheckpointError, StackError):
        raise
    except Exception as error:
        names = names_of(error)
        meaning = next((text for some, text in _MEANINGS if some & names), None)
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in names:
            raise
        if isinstance(error, ValueError) and str(error).startswith("Profile "):
            meaning = "multi-storage-client's configuration (MSC_CONFIG) has no such profile"
        # Its own words may quote a configuration, and that may hold keys.
        meaning = meaning or f"multi-storage-client: {type(error).__name__}; look at its configuration (MSC_CONFIG)"
        raise CheckpointError(f"{path}: {meaning}") from None


def names_of(error: BaseException | None) -> set[str]:
    """Return what an error and its causes are called, by their classes and by the store."""
    names: set[str] = set()
    while error is not None:
        names |= {kind.__name__ for kind in type(error).__mro__}
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            names.add(str(response.get("Error", {}).get("Code")))
        error = error.__cause__ or error.__context__
    return names
