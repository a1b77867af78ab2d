"""Who the processes and the user of a lab are."""

import random
import ssl
import stat
from pathlib import Path

import pytest

from essaim_cli.lab.identities import found_cluster
from essaim_cli.lab.topology import Topology, plan_lab
from essaim_shared.clock import SystemClock
from essaim_shared.trust.certificates import facts_of, is_signed_by
from essaim_shared.trust.founding import read_founding
from essaim_shared.trust.identity import read_identity
from essaim_shared.trust.roles import Role

SEED = 42


@pytest.fixture
def lab(tmp_path: Path) -> Topology:
    print(f"seed {SEED}")
    made = plan_lab(
        "lab",
        host_count=5,
        master_count=3,
        standby_count=1,
        executor="docker",
        subnet_number=7,
        run_root=tmp_path / "run",
        data_root=tmp_path / "data",
    )
    found_cluster(made, SystemClock(), random.Random(SEED))
    return made


def test_each_process_has_an_identity_of_its_own(lab: Topology) -> None:
    masters = [read_identity(h.master_identity_dir) for h in (*lab.masters, *lab.standbys)]
    agents = [read_identity(host.agent_identity_dir) for host in lab.hosts]
    assert [one.about.name for one in masters] == ["h1", "h2", "h3", "h4"]
    assert {one.about.role for one in masters} == {Role.MASTER}
    assert {one.about.role for one in agents} == {Role.AGENT}
    assert {len(one.about.name) for one in agents} == {25}
    everybody = [*masters, *agents]
    for kind in (lambda one: one.own_pem, lambda one: one.bus_seed, lambda one: one.about.name):
        assert len({kind(one) for one in everybody}) == len(everybody)
    assert not lab.host("h5").master_identity_dir.exists()


def test_the_first_masters_are_left_what_the_first_leader_writes_down(lab: Topology) -> None:
    foundings = [read_founding(host.master_identity_dir) for host in lab.masters]
    first = foundings[0]
    assert first is not None
    assert foundings == [first] * 3
    assert read_founding(lab.host("h4").master_identity_dir) is None
    assert len(first.identities) == 4 + 5
    assert [(user.name, user.role) for user in first.users] == [("admin", "admin")]
    for host in lab.hosts:
        identity = read_identity(host.agent_identity_dir)
        assert identity.authorities_pem == first.authority_pem
        certificate = identity.own_pem[identity.own_pem.index(b"-----BEGIN CERTIFICATE") :]
        assert is_signed_by(certificate, [first.authority_pem])
        assert identity.about.name in {one.name for one in first.identities}


def test_the_user_has_what_dockers_clients_look_for_and_nobody_else_reads_it(lab: Topology) -> None:
    directory = lab.admin_identity_dir
    assert directory == lab.hosts[0].admin_identity_dir
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    identity = read_identity(directory)
    assert identity.about.masters == ("10.98.7.1:7400", "10.98.7.2:7400", "10.98.7.3:7400")
    certificate = identity.own_pem[identity.own_pem.index(b"-----BEGIN CERTIFICATE") :]
    assert facts_of(certificate).subject.role is Role.USER
