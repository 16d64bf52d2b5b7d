"""The commands `wq sites ...`: the places where water is watched."""

from enum import StrEnum
from typing import Annotated

import typer
from waterquality.v1 import catalog_pb2 as pb
from waterquality.v1.catalog_pb2_grpc import CatalogServiceStub

from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Target, update_mask
from wq.plain import plain, print_json
from wq.show import show
from wq.show_catalog import sites_table

sites = typer.Typer(no_args_is_help=True, help="Sites: the places where water is watched.")

SiteId = Annotated[str, typer.Argument(metavar="SITE", help="Site id, 1 to 64 characters.")]
Name = Annotated[str | None, typer.Option(help="Name for people.")]
Etag = Annotated[str, typer.Option(help="Refuse the change when somebody changed it since this etag was read.")]


class Source(StrEnum):
    """What kind of water."""

    MUNICIPAL = "municipal"
    INDUSTRIAL = "industrial"
    NATURAL = "natural"


Region = Annotated[str | None, typer.Option(help="Region, 1 to 20 characters of a-z 0-9 _ -.")]
SourceOption = Annotated[Source | None, typer.Option("--source", help="Kind of water.")]
Latitude = Annotated[float | None, typer.Option(min=-90, max=90, help="Degrees north, WGS 84.")]
Longitude = Annotated[float | None, typer.Option(min=-180, max=180, help="Degrees east, WGS 84.")]
Zone = Annotated[str | None, typer.Option("--time-zone", help="IANA time zone of local days and reports.")]


@sites.command("ls")
@says_errors
def list_sites(
    region: Annotated[list[str] | None, typer.Option()] = None, target: Target = None, as_json: AsJson = False
) -> None:
    """All sites. Example: wq sites ls --region utah"""
    found: list[pb.Site] = []
    with open_channel(find_target(target)) as channel:
        request = pb.ListSitesRequest(page_size=1000, regions=region or ())
        while True:
            page = CatalogServiceStub(channel).ListSites(request, timeout=CALL_S)
            found.extend(page.sites)
            request.page_token = page.next_page_token
            if not request.page_token:
                break
    if as_json:
        print_json({"sites": [plain(site) for site in found], "next_page_token": ""})
    else:
        show(sites_table(found) if found else "no sites")


@sites.command("show")
@says_errors
def show_site(site_id: SiteId, target: Target = None, as_json: AsJson = False) -> None:
    """One site. Example: wq sites show franklin-basin"""
    with open_channel(find_target(target)) as channel:
        answer = CatalogServiceStub(channel).GetSite(pb.GetSiteRequest(site_id=site_id), timeout=CALL_S)
    _show(answer.site, as_json)


@sites.command("create")
@says_errors
def create_site(
    site_id: SiteId,
    region: Annotated[str, typer.Option(help="Region, 1 to 20 characters of a-z 0-9 _ -.")],
    name: Name = None,
    source: SourceOption = None,
    latitude: Latitude = None,
    longitude: Longitude = None,
    time_zone: Zone = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """A new site. Example: wq sites create franklin-basin --region utah --source natural --latitude 41.95 --longitude -111.58"""
    site, _ = _site(site_id, region, name, source, latitude, longitude, time_zone)
    with open_channel(find_target(target)) as channel:
        answer = CatalogServiceStub(channel).CreateSite(pb.CreateSiteRequest(site=site), timeout=CALL_S)
    _show(answer.site, as_json)


@sites.command("update")
@says_errors
def update_site(
    site_id: SiteId,
    region: Region = None,
    name: Name = None,
    source: SourceOption = None,
    latitude: Latitude = None,
    longitude: Longitude = None,
    time_zone: Zone = None,
    etag: Etag = "",
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Changes what is given, and nothing else. Example: wq sites update franklin-basin --name "Franklin Basin" """
    site, changed = _site(site_id, region, name, source, latitude, longitude, time_zone)
    site.etag = etag
    request = pb.UpdateSiteRequest(site=site, update_mask=update_mask(changed))
    with open_channel(find_target(target)) as channel:
        answer = CatalogServiceStub(channel).UpdateSite(request, timeout=CALL_S)
    _show(answer.site, as_json)


def _site(
    site_id: str,
    region: str | None,
    name: str | None,
    source: Source | None,
    latitude: float | None,
    longitude: float | None,
    zone: str | None,
) -> tuple[pb.Site, list[str]]:
    """The site, and which fields were given."""
    kind = None if source is None else pb.SourceType.Value(f"SOURCE_TYPE_{source.name}")
    given = {
        "region": region,
        "name": name,
        "source_type": kind,
        "latitude_deg": latitude,
        "longitude_deg": longitude,
        "time_zone": zone,
    }
    given = {field: value for field, value in given.items() if value is not None}
    return pb.Site(site_id=site_id, **given), list(given)  # type: ignore[arg-type]


def _show(site: pb.Site, as_json: bool) -> None:
    if as_json:
        print_json({"site": plain(site)})
    else:
        show(sites_table([site]))
