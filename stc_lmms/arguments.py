"""The form in which command lines and files give arguments: `name=value,...`."""

from stc_lmms.errors import SettingsError


def parse_pairs(text: str, source: str) -> dict[str, str]:
    """`name=value,...` as a dict; of a repeated name, the last value counts. See `parse_pair`."""
    return dict(parse_pair(part, source) for part in filter(None, text.split(",")))


def parse_pair(text: str, source: str, form: str = "name=value") -> tuple[str, str]:
    """The name and the value of `name=value`.

    Args:
        text: the pair; the value may hold further equals signs.
        source: where it was given, for the error message.
        form: how the error message writes the expected form.

    Raises:
        SettingsError: there is no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not (equals and name.strip()):
        raise SettingsError(f"{source}: {text!r} is not of the form {form}")
    return name.strip(), value.strip()
