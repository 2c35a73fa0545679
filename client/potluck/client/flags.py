"""What in a text looks like a secret or like somebody's personal data.  It looks on this machine only, and may err.

Keys and tokens are known by the patterns of detect-secrets, telephone numbers by phonenumbers; addresses of mail, and
numbers of cards and accounts, by their form and their check digits.  Nothing is verified with anybody: no network.
A name, a street or a diagnosis is not found: what is flagged is what a form gives away.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, final

from potluck.client.data import Dataset, NoData, Skipped
from potluck.client.readers import Sample

SHOWN: Final = 3  # characters at the start of what was found that a preview shows
EMAIL: Final = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[a-zA-Z0-9-]{1,63}\.){1,8}[a-zA-Z]{2,24}(?![\w-])")
CARD: Final = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d-])")
ACCOUNT: Final = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
TELEPHONE: Final = re.compile(r"\+\d|\d{3}")  # without this a text is not even searched for telephone numbers
PLUGINS: Final = (
    "artifactory.ArtifactoryDetector",
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "basic_auth.BasicAuthDetector",
    "cloudant.CloudantDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "ibm_cloud_iam.IbmCloudIamDetector",
    "ibm_cos_hmac.IbmCosHmacDetector",
    "jwt.JwtTokenDetector",
    "keyword.KeywordDetector",
    "mailchimp.MailchimpDetector",
    "npm.NpmDetector",
    "openai.OpenAIDetector",
    "private_key.PrivateKeyDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "softlayer.SoftlayerDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)
"""Of detect-secrets, by module and class.  Not those that go by entropy alone: they flag prose and hashes."""


@final
@dataclass(frozen=True, slots=True)
class Flag:
    """Something that was found: its kind in words, and so little of it that it tells only its owner what it is."""

    kind: str
    shown: str


@final
@dataclass(frozen=True, slots=True)
class Sieved:
    """What is left of a data set, and what was found: counts by kind, and one redacted example of each."""

    dataset: Dataset
    flagged: int  # samples
    kinds: Mapping[str, int]
    examples: Mapping[str, str]


Sieve = Callable[[Dataset], Dataset]


@final
class Flagger:
    """Looks through texts; loading its libraries takes a moment, so one is made and used for all."""

    def __init__(self, region: str = "US") -> None:
        """*region*, two letters, is where a telephone number without +NN is thought to be from."""
        import importlib  # noqa: PLC0415 - with the two libraries below, only where somebody asks

        import phonenumbers  # noqa: PLC0415

        paths = (plugin.rsplit(".", 1) for plugin in PLUGINS)
        self._plugins: list[Any] = [
            getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)() for module, name in paths
        ]
        self._matcher = phonenumbers.PhoneNumberMatcher
        self._region = region

    def flags(self, text: str) -> tuple[Flag, ...]:
        """Return what *text* holds, each thing once."""
        found = dict.fromkeys((*self._secrets(text), *self._personal(text)))
        return tuple(Flag(kind, redacted(what)) for kind, what in found)

    def sieve(self, dataset: Dataset, *, keep: bool = False) -> Sieved:
        """Return *dataset* without the samples that are flagged, which are listed as skipped; with *keep* all stay.

        Equal text is looked through once.

        Raises:
            NoData: nothing would be left.
        """
        by_text = {text: self.flags(text) for text in {sample.text for sample in dataset.samples}}
        flagged = [sample for sample in dataset.samples if by_text[sample.text]]
        kinds: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for sample in flagged:
            for flag in by_text[sample.text]:
                kinds[flag.kind] += 1
                examples.setdefault(flag.kind, flag.shown)
        if keep or not flagged:
            return Sieved(dataset, len(flagged), MappingProxyType(dict(kinds)), MappingProxyType(examples))
        rest = tuple(sample for sample in dataset.samples if not by_text[sample.text])
        if not rest:
            raise NoData(
                f"all {len(flagged)} samples look as if they held a secret or personal data ({', '.join(kinds)})",
                fix="name other text, or take it all the same: --keep-flagged, or potluck limits keep_flagged=true",
            )
        skipped = (*dataset.skipped, *_skips(dataset.samples, by_text))
        left = replace(dataset, samples=rest, skipped=skipped)
        return Sieved(left, len(flagged), MappingProxyType(dict(kinds)), MappingProxyType(examples))

    def _secrets(self, text: str) -> Iterator[tuple[str, str]]:
        for line in text.splitlines():
            for plugin in self._plugins:
                for value in plugin.analyze_string(line):
                    yield plugin.secret_type.lower(), str(value)

    def _personal(self, text: str) -> Iterator[tuple[str, str]]:
        for match in EMAIL.finditer(text):
            yield "e-mail address", match.group()
        for match in CARD.finditer(text):
            if luhn(match.group()):
                yield "card number", match.group()
        for match in ACCOUNT.finditer(text):
            if account(match.group()):
                yield "bank account", match.group()
        if TELEPHONE.search(text):
            for number in self._matcher(text, self._region):
                yield "telephone number", number.raw_string


def everything(dataset: Dataset) -> Dataset:
    """Return *dataset* as it is."""
    return dataset


def sieve_of(*, keep_flagged: bool) -> Sieve:
    """Return what leaves flagged samples out of a data set, or nothing where the owner wants all kept."""
    if keep_flagged:
        return everything
    flagger = Flagger()
    return lambda dataset: flagger.sieve(dataset).dataset


def redacted(what: str) -> str:
    """Return the first characters of *what*, at most a quarter of it, and how many follow."""
    shown = min(SHOWN, len(what) // 4)
    return f"{what[:shown]}… ({len(what)} characters)"


def luhn(text: str) -> bool:
    """Whether the digits in *text* are a card number's: 13 to 19 of them, the last one as ISO/IEC 7812 has it."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [digit if i % 2 == 0 else sum(divmod(2 * digit, 10)) for i, digit in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0  # noqa: PLR2004


def account(text: str) -> bool:
    """Whether *text* is an account's number: 15 to 34 characters, 1 modulo 97 as ISO 13616 has it."""
    bare = text.replace(" ", "")
    turned = bare[4:] + bare[:4]
    return 15 <= len(bare) <= 34 and int("".join(str(int(c, 36)) for c in turned)) % 97 == 1  # noqa: PLR2004


def _skips(samples: Sequence[Sample], by_text: Mapping[str, tuple[Flag, ...]]) -> Iterator[Skipped]:
    """Yield one entry for every flagged sample, without a word of it."""
    for number, sample in enumerate(samples, start=1):
        if by_text[sample.text]:
            kinds = ", ".join(sorted({flag.kind for flag in by_text[sample.text]}))
            yield Skipped(f"sample {number}", f"looks private: {kinds}")
