"""Every decoder that reads what another process or the disk hands over: how it is called, which
errors it may raise, and samples of what it reads."""

import os
import random
import ssl
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path

import dnslib
import msgspec
from support.dns_tables import FRONT, endpoint, picture, service, table_of, task
from support.full_service import FULL_SERVICE

from essaim_agent.assignment_stream import AssignmentStream
from essaim_agent.config import AgentConfig
from essaim_agent.dns import control, wire
from essaim_agent.dns.answers import Answers
from essaim_agent.dns.resolv_conf import name_servers
from essaim_agent.dns.table import Change, NetworkFact, Table
from essaim_master import bus_pieces, peer_frames
from essaim_master.at_rest.backup_file import sealed_backup, sealed_look
from essaim_master.at_rest.cipher import Place, RecordOpener, RecordSealer
from essaim_master.at_rest.errors import DataKeyMissing
from essaim_master.at_rest.ring import RingKey, decode_ring, encode_ring
from essaim_master.at_rest.sealed_stream import Purpose, StreamOpener, StreamSealer
from essaim_master.config import MasterConfig
from essaim_master.control.cron_expression import next_after, parse_expression
from essaim_master.control.update_policy import policy_of
from essaim_master.http import swarm
from essaim_master.http.authority_routes import decoded
from essaim_master.http.docker_objects import service_spec_object
from essaim_master.http.filters import decode_filters
from essaim_master.http.json_edge import decode_object, decode_spec
from essaim_master.http.network_requests import wanted_network
from essaim_master.http.service_requests import (
    created_service,
    decode_service_spec,
    updated_service,
)
from essaim_master.http.stack_requests import stack_request
from essaim_master.images import answers
from essaim_master.images.answers import UnreadableAnswer
from essaim_master.kv import commands
from essaim_master.kv.store import KeyValueStore
from essaim_master.raft import configurations
from essaim_master.raft.messages import (
    Configuration,
    Entry,
    EntryKind,
    Message,
    MessageType,
    SnapshotMetadata,
)
from essaim_master.snapshot.errors import SnapshotDamaged
from essaim_master.snapshot.format import (
    SNAPSHOT_FORMAT_VERSION,
    SnapshotHeader,
    SnapshotReader,
    SnapshotWriter,
)
from essaim_master.snapshot.transfer import ChunkAnswer, make_chunk
from essaim_master.standby.announcements import Announcement, Told, ToldMember
from essaim_master.tools.backup import check_backup
from essaim_shared import config, kv_protocol, messages
from essaim_shared.container_spec import ContainerSpec, Mount
from essaim_shared.errors import (
    ConfigError,
    InvalidRequest,
    MalformedMessage,
    NotSupported,
    TemplateError,
)
from essaim_shared.ids import MemberId, NodeId, ServiceId, TaskId
from essaim_shared.objects import EnginePlugin, NodeDescription, Service, Task, TaskStatus
from essaim_shared.sealing import DataKey, SealError, new_key_pair, open_with, seal_to
from essaim_shared.spec import (
    DiscreteResource,
    GenericResource,
    NamedResource,
    PortConfig,
    ServiceSpec,
    TaskSpec,
)
from essaim_shared.task_state import TaskState
from essaim_shared.templates import check_template
from essaim_shared.trust.certificates import (
    Authority,
    addresses_of,
    authority_digest,
    facts_of,
    new_request,
    request_key_digest,
    split_bundle,
)
from essaim_shared.trust.joining import JoinRequest, RoleRequest
from essaim_shared.trust.roles import Role, Subject
from essaim_shared.trust.tokens import JoinToken, parse_join_token
from essaim_shared.undecodable import UNDECODABLE

EXAMPLES = int(os.environ.get("ESSAIM_FUZZ_EXAMPLES", "120"))
"""For each decoder; `make fuzz` asks for many more."""
DEADLINE = timedelta(seconds=2)
"""For one input; a decoder that hangs is caught by it."""

MEMBERS = (MemberId("m1"), MemberId("m2"), MemberId("m3"))
SNAPSHOT = SnapshotMetadata(7, 2, Configuration(MEMBERS))
ENTRY = Entry(2, 8, EntryKind.NORMAL, b"command")
TRANSACTION = commands.Transaction(
    (commands.CompareRevision(b"k", 0),),
    (commands.Put(b"k", b"v"), commands.GrantLease(5, 60), commands.Put(b"l", b"v", 5, True)),
    (commands.DeleteRange(b"a", b"b"), commands.Range(b"a", b"z", 3), commands.Compact(4)),
)
COMMAND = commands.encode_command(
    commands.Command(commands.ProposalId("client", 1), 1, TRANSACTION)
)


@dataclass(frozen=True, slots=True)
class Decoder:
    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]


# The bus.

_DESCRIBED = NodeDescription(
    hostname="h1",
    address="10.0.0.1",
    architecture="x86_64",
    nano_cpus=1,
    memory_bytes=1,
    engine_version="1",
    plugins=(EnginePlugin(type="Volume", name="local"),),
    generic_resources=(
        GenericResource(discrete=DiscreteResource(kind="ssd", resource_value=2)),
        GenericResource(named=NamedResource(kind="gpu", resource_value="a")),
    ),
    seal_key="AA==",
)
_NODE = NodeId("n1")
_TASK = Task(
    id=TaskId("t"),
    service_id=ServiceId("s"),
    service_name="web",
    slot=1,
    spec=TaskSpec(container=ContainerSpec(image="i", mounts=(Mount(target="/a"),))),
    spec_version=1,
    desired_state=TaskState.COMPLETE,
    created_ns=1,
    updated_ns=1,
    restarts_ns=(1, 2),
    target_node=_NODE,
    iteration=3,
    ports=(PortConfig(target_port=80, publish_mode="host"),),
    generic_resources=(GenericResource(named=NamedResource(kind="gpu", resource_value="a")),),
)
_BUS_SAMPLES = tuple(
    messages.encode(message)
    for message in (
        messages.Register(node_id=_NODE, description=_DESCRIBED),
        messages.Heartbeat(node_id=_NODE, session="s", term=2, sequence=3),
        messages.StatusReport(
            node_id=_NODE,
            session="s",
            statuses=(
                messages.ReportedStatus(
                    task_id=TaskId("t"),
                    status=TaskStatus(state=TaskState.RUNNING, timestamp_ns=1),
                ),
            ),
        ),
        messages.Assignments(term=1, sequence=1, full=True, chunks=2, removed_tasks=(TaskId("t"),)),
        messages.Assignments(
            term=1,
            sequence=2,
            full=False,
            tasks=(_TASK,),
            credentials=(messages.SealedCredentials(service_id=_TASK.service_id, sealed=b"x"),),
        ),
        messages.Refused(reason="no"),
    )
)


def _bus_message(payload: bytes) -> object:
    return messages.decode(payload, messages.BusMessage)


def _orders(payload: bytes) -> object:
    """An agent takes them in, whatever numbers they carry."""
    return AssignmentStream(highest_term=1).offer(messages.decode(payload, messages.Assignments))


# The name server.

_NAMES = table_of(
    picture(
        service("web", "10.201.0.2", aliases=("www",)),
        *(endpoint(f"web.{slot}", f"10.1.0.{slot}", hostname="host") for slot in range(10, 60)),
        tasks={"client": task((FRONT, "10.1.0.9"))},
    )
)
_QUESTIONS = tuple(
    bytes(question.pack())
    for question in (
        dnslib.DNSRecord.question("web"),
        dnslib.DNSRecord.question("tasks.WWW.front"),
        dnslib.DNSRecord.question("10.0.1.10.in-addr.arpa", "PTR"),
        dnslib.DNSRecord(
            q=dnslib.DNSQuestion("tasks.web", 1, 1),
            ar=[dnslib.EDNS0(udp_len=1400, opts=[dnslib.EDNSOption(10, b"cookie12")])],
        ),
    )
)


def _question(data: bytes) -> object:
    """From the packet to the answer, which is never longer than it may be, and can be read."""
    answers = Answers(random.Random(1))
    answers.replace(_NAMES)
    for over in (answers.over_udp, answers.over_udp, answers.over_tcp):
        answer = over("10.1.0.9", data)
        if isinstance(answer, bytes):
            assert over == answers.over_tcp or len(answer) <= wire.UDP_BYTES_MAX
            assert answer[:2] == data[:2]
            dnslib.DNSRecord.parse(answer)
    return wire.read_query(data)


_TOLD = control.encode(
    control.Tell(
        Change(networks=(NetworkFact(FRONT, "front", "10.1.0.0/24"),)), is_first=True, revision=2
    )
)[control.LENGTH_BYTES :]


def _told(body: bytes) -> object:
    """A table takes whatever can be read, and then forgets it."""
    message = control.from_agent(body)
    if isinstance(message, control.Tell):
        Table().apply(message.change)
    return message


# Masters among themselves.

_GREETING = peer_frames.Greeting(2, "cluster", MEMBERS[0], MEMBERS[1])
_FRAMES = (
    peer_frames.encode_greeting(_GREETING),
    peer_frames.encode_answer(peer_frames.GreetingAnswer(None)),
    peer_frames.encode_message(
        Message(MessageType.APPEND_REQUEST, MEMBERS[0], MEMBERS[1], 2, entries=(ENTRY,))
    ),
    *peer_frames.encode_proposals([COMMAND, b"x"]),
    peer_frames.encode_chunk(make_chunk(SNAPSHOT, 10, 0, b"data")),
    peer_frames.encode_chunk_answer(ChunkAnswer(7, 2, 4)),
)
_FRAME_DECODERS: tuple[Callable[[peer_frames.Frame], object], ...] = (
    peer_frames.decode_greeting,
    peer_frames.decode_answer,
    peer_frames.decode_message,
    peer_frames.decode_proposals,
    peer_frames.decode_chunk,
    peer_frames.decode_chunk_answer,
)


def _peer_stream(data: bytes) -> object:
    return [(frame.kind, bytes(frame.body)) for frame in peer_frames.FrameReader().feed(data)]


def _peer_frame(decode: Callable[[peer_frames.Frame], object]) -> Callable[[bytes], object]:
    """The body of one frame: the sample's first bytes are its length and kind."""

    def decode_body(data: bytes) -> object:
        kind = data[4] if len(data) > 4 else 0
        return decode(peer_frames.Frame(kind, memoryview(data)[5:]))

    return decode_body


_PIECES = tuple(
    bus_pieces.encode_piece(value)
    for value in (
        bus_pieces.Piece(MEMBERS[0], 1, 2, 3, True, _FRAMES[0]),
        bus_pieces.BusGreeting(_GREETING, 4),
        bus_pieces.BusGreetingAnswer(peer_frames.GreetingAnswer("no"), 4),
    )
)

# Clients with the fast protocol.

_CLIENT_FRAMES = tuple(
    kv_protocol.encode_frame(frame)
    for frame in (
        kv_protocol.Ping(1),
        kv_protocol.RangeRequest(2, 500, kv_protocol.Range(b"a", b"b", 4)),
    )
)
_MASTER_FRAMES = tuple(
    kv_protocol.encode_frame(frame)
    for frame in (
        kv_protocol.Pong(1),
        kv_protocol.Failure(2, kv_protocol.FailureCode.NO_LEADER, "no leader"),
    )
)

# The disk.


def _snapshot_file() -> bytes:
    writer = SnapshotWriter()
    header = SnapshotHeader(SNAPSHOT_FORMAT_VERSION, "cluster", "i", MEMBERS[0], SNAPSHOT)
    parts = [writer.begin(header)]
    parts += [writer.add(chunk) for chunk in _filled_store().freeze().chunks()]
    return b"".join((*parts, writer.finish()[0]))


def _read_snapshot(data: bytes) -> object:
    reader = SnapshotReader("fuzzed")
    # In pieces, as from a disk: no boundary may matter.
    parts = [
        part
        for start in range(0, len(data), 100)
        for part in reader.feed(data[start : start + 100])
    ]
    reader.check_complete()
    return parts


_KEY = DataKey(bytes(range(32)))


def _sealed_file() -> bytes:
    sealer = StreamSealer(_KEY, Purpose.SNAPSHOT, "", random.Random(1).randbytes)
    return b"".join((sealer.begin(), sealer.add(_snapshot_file()), sealer.finish()))


def _read_sealed(data: bytes) -> object:
    opener = StreamOpener(
        "fuzzed", len(data), lambda at, size: data[at : at + size], lambda header: _KEY
    )
    return list(opener.pieces(1000))


def _backup_file() -> bytes:
    pieces = iter((_snapshot_file(),))
    return b"".join(sealed_backup(_KEY, "cluster", pieces, random.Random(2).randbytes))


def _read_backup(data: bytes) -> object:
    """As `essaim cluster restore` does, from a file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        sealed_look(Path(file.name))
        return check_backup(Path(file.name), _KEY)


def _sealed_record() -> bytes:
    return b"".join(RecordSealer(_KEY, random.Random(3).randbytes).seal(_PLACE, b"payload"))


_PLACE = Place(3, 7, 4096)


class _OneKey:
    """As much of a ring as reading asks."""

    def find(self, key_id: bytes, what: str) -> DataKey:
        if key_id != _KEY.id:
            raise DataKeyMissing(key_id, what, "the ring")
        return _KEY


def _open_record(data: bytes) -> object:
    return RecordOpener(_OneKey()).open(_PLACE, memoryview(data), "the log")


def _restore(data: bytes) -> object:
    """`data` stands in the place of the second chunk; the others are good."""
    store = KeyValueStore()
    first, _, *others = _filled_store().freeze().chunks()
    store.restore([first, data, *others])
    return store.revision


def _filled_store() -> KeyValueStore:
    store = KeyValueStore()
    store.apply(1, 1, COMMAND)
    assert store.get(b"k") is not None, "the samples hold something"
    return store


# Text.

_SPEC = (
    b'{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"i","Env":["A=1"]},'
    b'"Placement":{"Constraints":["node.id==x"]}},"Mode":{"Replicated":{"Replicas":3}}}'
)
_JOB_SPEC = (
    b'{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"i"}},"Mode":{"ReplicatedJob":'
    b'{"TotalCompletions":3}},"Schedule":{"Expression":"*/5 * * * *","TimeZone":"UTC"}}'
)
_FULL_SPEC = msgspec.json.encode(FULL_SERVICE)
_NOW_NS = 1_800_000_000_000_000_000
_FULL = created_service(decode_service_spec(_FULL_SPEC), ServiceId("s"), _NOW_NS)
_SWARM_SPEC = (
    b'{"Name":"default","Orchestration":{"TaskHistoryRetentionLimit":5},"Raft":{"ElectionTick":10},'
    b'"CAConfig":{"ExternalCAs":[]},"Labels":{"a":"b"}}'
)
_TEMPLATES = (
    b"{{.Service.Name}}-{{.Task.Slot}}",
    b'{{if eq .Task.Slot "1"}}{{index .Service.Labels "a.b"}}{{else}}'
    b"{{.Node.Hostname | len}}{{end}}",
    b'{{range $k, $v := .Service.Labels}}{{- join "," $k ($v)}}{{end}}{{$a := "b"}}{{/* c */}}',
)
_MASTER_TOML = b"""
cluster_id = "c"
member_id = "h1"
data_dir = "/d"
socket = "/s"
http_listen = "127.0.0.1:1"
raft_listen = "127.0.0.1:2"
bus_servers = ["nats://127.0.0.1:3"]
[[members]]
id = "h1"
raft = "127.0.0.1:2"
http = "127.0.0.1:1"
[overlay]
vni = 5
"""
_AGENT_TOML = b"""
cluster_id = "c"
node_name = "h1"
data_dir = "/d"
run_dir = "/r"
address = "10.0.0.1"
bus_servers = ["nats://127.0.0.1:3"]
"""


_MANIFESTS = (
    b'{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"digest":"sha256:a",'
    b'"platform":{"architecture":"amd64","os":"linux"}}]}',
    b'{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:'
    + b"a" * 64
    + b'"}}',
)
_DATA_KEY = DataKey(bytes(32))
_KEY_PAIR = new_key_pair()


def _manifest(body: bytes) -> object:
    return answers.parse_manifest(body, "application/vnd.oci.image.manifest.v1+json", "")


def _challenge(header: bytes) -> object:
    return answers.parse_challenge(header.decode("latin-1"))


def _credentials(header: bytes) -> object:
    return answers.decode_credentials(header.decode("latin-1"))


def _sealed(sealed: bytes) -> object:
    return _DATA_KEY.open(sealed, b"here")


def _sealed_to(sealed: bytes) -> object:
    return open_with(_KEY_PAIR, sealed, b"here")


def _service_spec(body: bytes) -> object:
    return decode_spec(decode_object(body, "service"), ServiceSpec, "service")


def _created(body: bytes) -> object:
    """From a request to what is stored of it: whatever is taken can be written and shown."""
    spec = decode_service_spec(body)
    service = created_service(msgspec.structs.replace(spec, name="web"), ServiceId("s"), _NOW_NS)
    stored = msgspec.msgpack.encode(service)
    assert msgspec.msgpack.decode(stored, type=Service) == service
    updated_service(_FULL, spec, _NOW_NS)
    return policy_of(service), service_spec_object(service.spec)


def _certificate(pem: bytes) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a serial number that is negative, say
        return facts_of(pem), addresses_of(pem), authority_digest(pem)


def _as_request(certificate_pem: str) -> bytes:
    """The same bytes under the other title, since `ssl` knows one only."""
    return certificate_pem.replace(" CERTIFICATE", " CERTIFICATE REQUEST").encode()


def _as_certificate(request_pem: bytes) -> str:
    return request_pem.decode().replace(" CERTIFICATE REQUEST", " CERTIFICATE")


def _network(body: bytes) -> object:
    return wanted_network(decode_object(body, "network"))


def _stack(body: bytes) -> object:
    return stack_request(decode_object(body, "stack"), "shop")


def _schedule(text: bytes) -> object:
    expression = parse_expression(text.decode("utf-8", "replace"))
    return next_after(expression, UTC, _NOW_NS)


def _template(text: bytes) -> object:
    return check_template(text.decode("utf-8", "replace"))


def _swarm(body: bytes) -> object:
    fields = decode_object(body, "swarm spec")
    swarm.refuse_other_changes(fields, msgspec.json.decode(_SWARM_SPEC))
    return swarm.history_limit(fields)


def _filters(body: bytes) -> object:
    return decode_filters(body.decode("utf-8", "surrogateescape"), frozenset({"name", "label"}))


MALFORMED = (MalformedMessage,)

_NETWORKS = (
    b'{"Name":"back","CheckDuplicate":true,"Driver":"overlay","Scope":"","EnableIPv6":false,'
    b'"IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.9.0.0/24",'
    b'"IPRange":"10.9.0.128/25"}]},"Internal":true,"Attachable":false,"Ingress":false,'
    b'"ConfigOnly":false,"ConfigFrom":{"Network":""},'
    b'"Options":{"com.docker.network.driver.mtu":"1400"},"Labels":{"a":"b"}}',
    b'{"Name":"front"}',
)
_STACK = b'{"Networks":[%b],"Services":[%b],"Prune":true,"RegistryAuths":{"web":"e30="}}' % (
    _NETWORKS[0],
    _FULL_SPEC,
)

_ANNOUNCEMENTS = (
    msgspec.json.encode(Announcement("c", MEMBERS[0], "10.0.0.1:1", "10.0.0.1:2", 1, "0.1.0")),
    msgspec.json.encode(Told("member", (ToldMember(MEMBERS[0], "a:1", "a:2"),), "life")),
)

_ASKED = new_request("n1")
_AUTHORITY = Authority.new("lab", 1_700_000_000_000_000_000)
_CERTIFICATE = _AUTHORITY.issue(
    _ASKED.request_pem,
    Subject("h1", Role.MASTER, "lab"),
    1_700_000_000_000_000_000,
    ("10.0.0.1", "h1"),
)
_JOIN = msgspec.json.encode(
    JoinRequest(
        secret="s" * 25,
        hostname="h2",
        requests=(RoleRequest(Role.AGENT, _ASKED.request_pem.decode(), "U" + "A" * 55),),
    )
)

DECODERS: dict[str, Decoder] = {
    "join request": Decoder(lambda data: decoded(data, JoinRequest), (InvalidRequest,), (_JOIN,)),
    "certificate request": Decoder(request_key_digest, (InvalidRequest,), (_ASKED.request_pem,)),
    "certificate": Decoder(_certificate, (InvalidRequest,), (_CERTIFICATE,)),
    "certificate without its armour": Decoder(
        lambda data: _certificate(ssl.DER_cert_to_PEM_cert(data).encode()),
        (InvalidRequest,),
        (ssl.PEM_cert_to_DER_cert(_CERTIFICATE.decode()),),
    ),
    "certificate request without its armour": Decoder(
        lambda data: request_key_digest(_as_request(ssl.DER_cert_to_PEM_cert(data))),
        (InvalidRequest,),
        (ssl.PEM_cert_to_DER_cert(_as_certificate(_ASKED.request_pem)),),
    ),
    "authorities": Decoder(split_bundle, (InvalidRequest,), (_AUTHORITY.certificate_pem,)),
    "join token": Decoder(
        lambda data: parse_join_token(data.decode("latin-1")),
        (InvalidRequest,),
        (JoinToken("ab" * 32, "s" * 25).text.encode(),),
    ),
    "bus message": Decoder(_bus_message, MALFORMED, _BUS_SAMPLES),
    "orders to an agent": Decoder(_orders, MALFORMED, _BUS_SAMPLES),
    "question for a name": Decoder(_question, MALFORMED, _QUESTIONS),
    "table of names": Decoder(_told, MALFORMED, (_TOLD,)),
    "answer of a name server": Decoder(
        control.from_server, MALFORMED, (control.encode(control.Counts(1))[control.LENGTH_BYTES :],)
    ),
    "list of name servers": Decoder(
        lambda data: name_servers(data.decode("utf-8", "replace")), (), (b"nameserver 192.0.2.1",)
    ),
    "stream from a peer": Decoder(_peer_stream, MALFORMED, _FRAMES),
    **{
        f"peer frame, {decode.__name__}": Decoder(_peer_frame(decode), MALFORMED, _FRAMES)
        for decode in _FRAME_DECODERS
    },
    "piece on the bus": Decoder(bus_pieces.decode_piece, MALFORMED, _PIECES),
    "greeting on the bus": Decoder(bus_pieces.decode_greeting, MALFORMED, _PIECES),
    "answer on the bus": Decoder(bus_pieces.decode_answer, MALFORMED, _PIECES),
    "stream from a client": Decoder(
        lambda data: list(kv_protocol.ClientFrameReader().feed(data)), MALFORMED, _CLIENT_FRAMES
    ),
    "stream from a master": Decoder(
        lambda data: list(kv_protocol.MasterFrameReader().feed(data)), MALFORMED, _MASTER_FRAMES
    ),
    "command in the log": Decoder(commands.decode_command, UNDECODABLE, (COMMAND,)),
    "configuration in the log": Decoder(
        configurations.decode, MALFORMED, (configurations.encode(Configuration(MEMBERS)),)
    ),
    "snapshot file": Decoder(_read_snapshot, (SnapshotDamaged,), (_snapshot_file(),)),
    "sealed snapshot": Decoder(_read_sealed, (SnapshotDamaged,), (_sealed_file(),)),
    "backup file": Decoder(
        _read_backup, (SnapshotDamaged, ConfigError), (_backup_file(), _snapshot_file())
    ),
    "sealed record": Decoder(_open_record, (SealError, DataKeyMissing), (_sealed_record(),)),
    "ring of data keys": Decoder(
        lambda data: decode_ring(data, "here"),
        (ConfigError,),
        (encode_ring([RingKey(_KEY, bytes(range(32)), 1)]),),
    ),
    "chunk of a snapshot": Decoder(_restore, MALFORMED, tuple(_filled_store().freeze().chunks())),
    "manifest of a registry": Decoder(_manifest, (UnreadableAnswer,), _MANIFESTS),
    "platform of an image": Decoder(answers.parse_image_platform, (UnreadableAnswer,), _MANIFESTS),
    "token of a registry": Decoder(
        answers.parse_token, (UnreadableAnswer,), (b'{"token":"abc"}', b'{"access_token":"abc"}')
    ),
    "refusal of a registry": Decoder(
        answers.parse_refusal, (), (b'{"errors":[{"code":"DENIED","message":"no"}]}',)
    ),
    "challenge of a registry": Decoder(
        _challenge, (), (b'Bearer realm="https://a/t",service="r",scope="repository:a:pull"',)
    ),
    "credentials in a header": Decoder(
        _credentials, (InvalidRequest,), (b"eyJ1c2VybmFtZSI6ImEiLCJwYXNzd29yZCI6ImIifQ==",)
    ),
    "seal of a data key": Decoder(_sealed, (SealError,), (_DATA_KEY.seal(b"secret", b"here"),)),
    "seal to a node": Decoder(
        _sealed_to, (SealError,), (seal_to(_KEY_PAIR.public_text, b"secret", b"here"),)
    ),
    "announcement of a master": Decoder(
        lambda data: msgspec.json.decode(data, type=Announcement), UNDECODABLE, _ANNOUNCEMENTS
    ),
    "what a standing-by master is told": Decoder(
        lambda data: msgspec.json.decode(data, type=Told), UNDECODABLE, _ANNOUNCEMENTS
    ),
    "service in JSON": Decoder(_service_spec, (InvalidRequest,), (_SPEC,)),
    "service that is created": Decoder(
        _created, (InvalidRequest, NotSupported), (_SPEC, _FULL_SPEC, _JOB_SPEC)
    ),
    "network in JSON": Decoder(_network, (InvalidRequest, NotSupported), _NETWORKS),
    "stack in JSON": Decoder(_stack, (InvalidRequest, NotSupported), (_STACK,)),
    "schedule": Decoder(_schedule, (InvalidRequest,), (b"*/5 0-6,22 1 jan-mar mon", b"@hourly")),
    "template": Decoder(_template, (TemplateError,), _TEMPLATES),
    "swarm in JSON": Decoder(_swarm, (InvalidRequest, NotSupported), (_SWARM_SPEC,)),
    "filters in JSON": Decoder(_filters, (InvalidRequest,), (b'{"name":{"a":true}}',)),
    "a master's settings": Decoder(
        lambda data: config.parse(data, "f", MasterConfig), (ConfigError,), (_MASTER_TOML,)
    ),
    "an agent's settings": Decoder(
        lambda data: config.parse(data, "f", AgentConfig), (ConfigError,), (_AGENT_TOML,)
    ),
}
