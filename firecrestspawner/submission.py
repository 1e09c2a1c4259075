"""What is submitted for a spawn: from configuration and options to a job request.

Whatever is wrong with the configuration is said here, before anything is submitted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from traitlets import TraitError

from . import address, options, output, profiles, script, settings
from .config import SpawnerConfig
from .errors import ConfigurationError, OptionsError
from .fields import FIELDS, Field, in_pbs_words, lies_under, of_user
from .models import JobRequest, Secret, System
from .oidc import Provider
from .service import ServiceAccount
from .settings import Settings
from .spawn import Spawn

#: Scheme, host (a name, or an IPv6 address in brackets) and port.
_ORIGIN = r"https?://([^/?#@:\[\]\s]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?"


def check(config: SpawnerConfig, here: Settings, environment: Mapping[str, str]) -> None:
    """Raise ConfigurationError, whose detail names the trait to set, for what cannot work."""
    if not config.firecrest_url:
        raise misconfigured("set c.FirecRESTSpawner.firecrest_url (or FIRECREST_URL)")
    if not here.system:
        raise misconfigured("set c.FirecRESTSpawner.system")
    host = urlsplit(environment["JUPYTERHUB_API_URL"]).hostname or ""
    number = address.numeric(host)
    local = host == "localhost" or (
        number is not None and (number.is_loopback or number.is_unspecified)
    )
    if local and not any(network.is_loopback for network in networks(here)):
        raise misconfigured(
            f"jobs on {here.system} cannot reach the Hub at {host}: set "
            "c.FirecRESTSpawner.hub_connect_url to an address the compute nodes can reach"
        )


def seen_from(here: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The server's environment, with the Hub where the system's nodes find it."""
    if not here.hub_connect_url:
        return dict(environment)
    hub = urlsplit(here.hub_connect_url)
    return {
        name: urlsplit(value)._replace(scheme=hub.scheme, netloc=hub.netloc).geturl()
        if name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL")
        else value
        for name, value in environment.items()
    }


def unworkable(app: Any) -> str:
    """Why no server of this Hub could ever start, as what to set; empty when nothing is known.

    For start-up, before the Hub serves. ``app`` is the JupyterHub application.
    """
    if not issubclass(app.spawner_class, SpawnerConfig):
        return ""
    if app.internal_ssl:
        return (
            "set c.JupyterHub.internal_ssl = False: a server that runs as a job gets no "
            "certificate from the Hub, and would not be reached"
        )
    try:
        ServiceAccount(config=app.config).check()
        # A spawner is made at the first start, which would be late to hear of a wrong setting.
        spawner = app.spawner_class(config=app.config)
        _check_settings(spawner)
    except (TraitError, ValueError) as error:
        return str(error)
    except ConfigurationError as error:
        return error.detail
    return ""


def _check_settings(spawner: SpawnerConfig) -> None:
    """Raise what is wrong with settings that make sense one by one."""
    names = settings.names(spawner.systems, spawner.system)
    for system in names:
        of_system(spawner, system)
    listed = [] if callable(spawner.profile_list) else spawner.profile_list
    for profile in profiles.read(listed, spawner.check_request):
        system = profile.override.get("system") or "".join(names[:1])
        if system not in names and settings.ALL not in names:
            raise ValueError(
                f"FirecRESTSpawner.profile_list: {profile.slug}: there is no system {system!r} in "
                "'systems'"
            )
        try:
            here = of_system(spawner, system).with_profile(profile.override)
            _check_use(here, profile.requests)
        except ValueError as error:
            raise ValueError(f"FirecRESTSpawner.profile_list: {profile.slug}: {error}") from None


def _check_use(here: Settings, requests: Iterable[str]) -> None:
    """Raise ValueError for a request that the system's batch script has no use for.

    As far as that is known while nobody has asked FirecREST about the system: of a script that is
    named, and of what FirecREST's API does not carry beside it in any mode.
    """
    if not here.batch_script:
        return
    scheduler = here.batch_script.partition("-")[0]
    for name in lost(here, requests, System(here.system, scheduler=scheduler)):
        if name not in FIELDS or not FIELDS[name].api:
            raise ValueError(f"the batch script of {here.system} does not use req_{name}")


def networks(here: Settings) -> list[address.IPNetwork]:
    """Where servers may be; empty for the addresses of their own nodes."""
    return address.parse_networks(here.connect_networks)


def of_system(config: SpawnerConfig, system: str) -> Settings:
    """What holds on ``system``. Raises ConfigurationError when that makes no sense."""
    try:
        here = settings.on(config, system)
    except ValueError as error:
        raise misconfigured(f"c.FirecRESTSpawner.option_fields for {system}: {error}") from None
    if here.address_template and not here.connect_networks:
        raise misconfigured(
            f"set c.FirecRESTSpawner.connect_networks for {system}, too: what address_template "
            "leads to is none of the nodes' own addresses"
        )
    if here.hub_connect_url is not None and not re.fullmatch(_ORIGIN, here.hub_connect_url):
        raise misconfigured(
            f"set hub_connect_url of {system} in c.FirecRESTSpawner.systems to scheme, host and "
            "port, such as https://jupyter.example.org"
        )
    return here


def job_request(
    config: SpawnerConfig,
    here: Settings,
    spawn: Spawn,
    system: System,
    chosen: Mapping[str, str],
    job_name: str,
) -> JobRequest:
    """Render the script, and name what the API itself has fields for.

    ``here`` is what holds on the system, ``chosen`` what the user has asked for. Raises
    OptionsError for a value that no script can carry.
    """
    workdir = _workdir(here, chosen, spawn.user)
    for name, path in chosen.items():
        if name != "workdir" and here.fields[name].under:
            _check_directory(here.fields[name], path, spawn.user)
    values = here.values(chosen)
    if system.scheduler == "pbs":
        # PBS has no symbol for a job's number, and delivers the log at the end: until then an
        # earlier start's, under the same name, would be read as this one's.
        values = {"output": f"jupyter-{spawn.id}.log", **values}
        values |= _in_pbs_words(here, chosen, values)
    template = _template(here.batch_script, system)
    try:
        if system.honours_directives:
            _refuse_unused(template, chosen, here.display_name)
        text = script.render(
            template,
            values={**values, **_admins_text(values)},
            job_name=job_name,
            scheduler="pbs" if system.scheduler == "pbs" else "slurm",
            ticket=_ticket(config, spawn),
            python=here.python,
        )
    except script.ScriptError as error:
        raise OptionsError(f"The job cannot be written: {error}") from None
    request = JobRequest(workdir, Secret(text))
    if system.honours_directives:
        spawn.log = output.log_pattern(text, scheduler=system.scheduler, workdir=workdir)
        return request
    spawn.log = output.below(workdir, values.get("output") or output.SLURM_DEFAULT)
    # FirecREST facts, 5: here the directives count for nothing, and nothing is inherited.
    fields = {
        FIELDS[name].api: value
        for name, value in values.items()
        if name in FIELDS and FIELDS[name].api
    }
    return dataclasses.replace(
        request,
        name=job_name,
        output=values.get("output"),
        env={"HOME": workdir, "USER": spawn.user},
        **fields,
    )


def _in_pbs_words(
    here: Settings, chosen: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, str]:
    """Those of users' fields, which mean what sbatch does by them, as PBS writes them."""
    return {
        name: in_pbs_words(field.kind, values[name])
        for name, field in here.fields.items()
        if name in values and (name in chosen or values[name] == field.default)
    }


def unused(here: Settings, names: Iterable[str], system: System | None) -> list[str]:
    """Those of the fields called `names` that the system's batch script would not pass on.

    As far as can be told: none of a script that cannot be read, or while nobody knows which one it
    is, or where directives count for nothing anyway.
    """
    if system is None or not system.honours_directives:
        return []
    try:
        return _unused(_template(here.batch_script, system), names)
    except (ConfigurationError, script.ScriptError):
        return []  # the start says what is wrong


def lost(here: Settings, requests: Iterable[str], system: System | None) -> list[str]:
    """Those of the ``requests``, short names, that would come to nothing on the system.

    Its connection mode drops them, or its batch script does not use them; as far as can be told.
    """
    if system is None:
        return []
    if not system.honours_directives:
        return options.ignored(requests, system)
    try:
        return script.unused(_template(here.batch_script, system), requests)
    except (ConfigurationError, script.ScriptError):
        return []  # the start says what is wrong


def refuse_lost(here: Settings, system: System) -> None:
    """Raise OptionsError for what a user's profile requests, and would come to nothing."""
    requests = [name for name in here.profile if name not in settings.NOT_REQUESTS]
    for name in lost(here, requests, system):
        label = FIELDS[name].label if name in FIELDS else name
        raise OptionsError(
            f"This profile cannot be started on {here.display_name}, which has no use for what it "
            f"sets: {label}.",
            detail=f"c.FirecRESTSpawner.profile_list: req_{name} comes to nothing on "
            f"{here.system}: its batch script does not use it, or its connection mode drops it",
        )


def _unused(template: str | Path, names: Iterable[str]) -> list[str]:
    asked = [name for name in names if name in FIELDS and not FIELDS[name].ours]
    return script.unused(template, asked)


def _refuse_unused(template: str | Path, chosen: Mapping[str, str], title: str) -> None:
    """Raise OptionsError for what the user asked for and the batch script would not pass on.

    ``title`` is what users are shown for the system.
    """
    for name in _unused(template, chosen):
        raise OptionsError(
            f"{FIELDS[name].label} cannot be asked for on {title}: its batch script does "
            f"not use it (option {name!r})."
        )


def _workdir(here: Settings, chosen: Mapping[str, str], user: str) -> str:
    """Where the job starts: the site's directory, or the user's choice where that is allowed."""
    own = of_user(here.workdir, user)
    field = here.fields.get("workdir")
    wanted = chosen.get("workdir") or (field.default if field else "")
    if field is None or not wanted:
        return own
    _check_directory(field, wanted, user, own)
    return wanted


def _check_directory(field: Field, wanted: str, user: str, *otherwise: str) -> None:
    """Raise OptionsError for a path outside of the directories that the field's ``under`` names."""
    allowed = [of_user(each, user) for each in field.under] or otherwise
    if allowed and not lies_under(wanted, allowed):
        raise OptionsError(
            f"{field.label}: {wanted[:40]!r} is not in {' or '.join(allowed)} "
            f"(option {field.name!r})."
        )


def _ticket(config: SpawnerConfig, spawn: Spawn) -> str:
    api = spawn.environment["JUPYTERHUB_API_URL"].rstrip("/")
    return script.encode_ticket(
        f"{api}/firecrest/job",
        spawn.line.ticket.reveal(),
        config.launch_patience,
        config.unknown_patience,
    )


def _admins_text(values: Mapping[str, Any]) -> dict[str, script.Trusted]:
    """The values that go into the script as they are, for the deployer wrote them.

    No field of users' has one of these names.
    """
    return {
        "options": script.Trusted(" ".join(values.get("options", ()))),
        "prologue": script.Trusted(values.get("prologue", "")),
        "epilogue": script.Trusted(values.get("epilogue", "")),
    }


def _template(configured: str, system: System) -> str | Path:
    """The batch script's template: a site's text or file, or one that ships."""
    if configured.startswith("/") and "\n" not in configured:
        return Path(configured)
    if configured and not re.fullmatch(r"[\w.-]+", configured):
        return configured
    fit = [name for name in script.SHIPPED if name.partition("-")[0] == system.scheduler]
    if not configured and not fit:
        raise misconfigured(
            f"{system.name} has the scheduler {system.scheduler!r}, for which no batch script "
            "ships: set c.FirecRESTSpawner.batch_script"
        )
    name = configured or system.scheduler
    if name not in fit:
        raise misconfigured(
            f"no batch script {name!r} ships for {system.name}, whose scheduler is "
            f"{system.scheduler!r}: c.FirecRESTSpawner.batch_script is one of "
            f"{', '.join(fit) or 'none'}, an absolute path, or a template's text"
        )
    return script.shipped_template(name)


async def cluster_user(config: SpawnerConfig, provider: Provider, token: Secret) -> str:
    """The name FirecREST will take from the token (R10): verified, and never the Hub's name.

    Raises ConfigurationError when the token does not say, and what Provider.claims raises.
    """
    user = (await provider.claims(token)).get(config.username_claim)
    if isinstance(user, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}", user, re.ASCII):
        return user
    raise ConfigurationError(
        "Your login does not say which cluster user you are. Please tell the administrators.",
        detail=f"the access token has no user name in its claim {config.username_claim!r}: set "
        "c.FirecRESTSpawner.username_claim to the claim FirecREST uses",
    )


def misconfigured(detail: str) -> ConfigurationError:
    """The error whose detail, for the admin, says what to set."""
    return ConfigurationError(
        "The Hub is not fully configured. Please tell the administrators.", detail=detail
    )
