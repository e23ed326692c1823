"""The router: every input from its client to a container and its outcome back."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from squall.control.calls import class_pools
from squall.control.calls.class_pools import ClassPools
from squall.control.calls.durable_inputs import Spawned
from squall.control.calls.history import History
from squall.control.calls.input import Caller, RoutedInput
from squall.control.calls.input_index import LiveInputs
from squall.control.calls.kept_results import KeptResults
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.payload_files import Parcels
from squall.control.calls.pool import Pool
from squall.control.calls.pool_container import Member
from squall.control.calls.readoption import Returns
from squall.control.calls.waits import Waits
from squall.control.faults import fault, pack_fault
from squall.control.logs import LogBook
from squall.control.nodes.capacity import Room
from squall.control.nodes.node_link import NodeLink
from squall.control.retrying_writes import ENDING_S, persist, record_container
from squall.core.calls.generators import interrupted
from squall.core.calls.state import Input, Story
from squall.core.placement import Node, Placement
from squall.model.errors import Error, NotFoundError, ResourceExhaustedError
from squall.model.ids import CONTAINER, ContainerId, FunctionId, input_id, make_id
from squall.model.options import words
from squall.model.states import InputState
from squall.store.contract import Store
from squall.store.rows import EventRow, InputRow
from squall.wire.agent import PrepareImage, StartContainer
from squall.wire.messages import CANCELLED, DURABLE, FAILED, OK, Accepted, Call, Cancel, Credit, LogChunk, More, Output

log = logging.getLogger(__name__)

#: The outcome of an input whose client lost its connection waits for it to come back.
ORPHAN_KEPT_S = 60.0
#: Period of the look at timeouts while something runs.
WATCH_S = 0.05


@dataclass(frozen=True, slots=True)
class Statistics:
    """A snapshot of the router."""

    pools: int
    containers: int
    queued: int
    running: int
    inputs_done: int


class Router:
    """One per server. Not thread-safe: everything happens on its event loop."""

    def __init__(
        self, *, store: Store, links: Mapping[str, NodeLink], logs: LogBook, nodes: list[Node], first_token: int, limits: class_pools.Limits | None = None
    ) -> None:
        """
        Args:
            links: with the agents of `nodes`, by name.
            limits: of sets of class parameters; None: the usual ones.
        """
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.soon = self._loop.call_soon
        self.store, self.links, self.logs = store, links, logs
        self.room = Room(self, nodes)
        self.pools: dict[str | class_pools.Key, Pool] = {}
        self.class_pools = ClassPools(self, limits or class_pools.Limits())
        self.functions: dict[str, LiveFunction] = {}
        #: All containers by id: what looks for one, or for an app's, does not go through the pools of every deployed function.
        self.members: dict[str, Member] = {}
        self.inputs = LiveInputs()
        self.history = History(store, self.own)
        #: What happened to inputs lately, beyond what happens to all.
        self.story = Story()
        #: After a restart: functions whose client is expected to come back, and the calls that wait for them.
        self._expected: dict[str, list[tuple[Call, Caller]]] = {}
        self.waits = Waits(self)
        self.kept = KeptResults(self.later, ORPHAN_KEPT_S)
        #: Live inputs to be run again whose clients have not come back since a restart.
        self._awaiting_resend: dict[tuple[str, int], RoutedInput] = {}
        self.returns = Returns(self)
        self._token = first_token
        self.spawned = Spawned(self, store)
        self._watching = False
        #: Pools that have something starting or running, or had at the last look.
        self._busy: dict[Pool, None] = {}
        self._beside = 0
        #: Functions of which no container is started until those of the version before have ended.
        self.held: set[str] = set()
        self._writes: set[asyncio.Task[Any]] = set()
        #: App -> set when its last container has gone.
        self._empty: dict[str, list[asyncio.Event]] = {}
        #: Told about containers of an app: (app, container, tag, state, reason, seconds).
        #: Where large arguments lie; None where all are sent.
        self.parcels: Parcels | None = None
        self.on_container: Callable[[Pool, Member, str, str], None] = lambda *_: None

    # functions

    def add_function(self, function: LiveFunction) -> None:
        """From now on it can be called."""
        self.functions[function.id] = function
        self.returns.hand_over(function, partial(self._known_pool, function.id))
        for link in self.links.values():
            link.send(PrepareImage(function.image_name, function.layer_names))
        for call, caller in self._expected.pop(function.id, ()):
            self.submit(call, caller)
        pool = self._pool(function.id, b"")
        # Of a class it is the object with all defaults that is kept warm, if there can be one.
        if pool is not None and pool.spec.scaling.min_containers and not any(parameter.required for parameter in pool.spec.parameters):
            pool.rescale()

    def expect(self, function_id: str) -> None:
        """Calls of this function wait until it is added, or `unexpect`."""
        self._expected.setdefault(function_id, [])
        self.waits.expect(function_id)

    def unexpect(self, function_id: str) -> None:
        """It will not come: what waited for it is refused."""
        for call, caller in self._expected.pop(function_id, ()):
            self.submit(call, caller)
        self.waits.recovered(function_id)

    def _known_pool(self, function_id: str, parameters: bytes) -> Pool:
        pool = self._pool(function_id, parameters)
        assert pool is not None
        return pool

    def _pool(self, function_id: str, parameters: bytes) -> Pool | None:
        key = (function_id, parameters) if parameters else function_id
        pool = self.pools.get(key)
        if pool is None and (function := self.functions.get(function_id)) is not None:
            pool = self.pools[key] = Pool(self, function, parameters)
            if parameters:
                self.class_pools.added(function, parameters)
        return pool

    def known_pool(self, function_id: str, parameters: bytes) -> Pool | None:
        """Where calls of it go; None: no call has gone there lately."""
        return self.pools.get((function_id, parameters) if parameters else function_id)

    def pool_for(self, function_id: str, parameters: bytes, method: str | None = None) -> Pool:
        """Where calls of it go, made for a first one within the limits of class parameters. `method`: it has to have that.

        Raises:
            NotFoundError: no such function, or no such method.
            InvalidError, ResourceExhaustedError: see `ClassPools.check`.
        """
        pool = self.known_pool(function_id, parameters)
        function = self.functions.get(function_id) if pool is None else pool.function
        if function is None:
            raise NotFoundError(f"there is no function {function_id}: its app has ended")
        if method is not None and method not in (names := {method.name for method in function.spec.methods} if pool is None else pool.methods):
            there = ", ".join(sorted(names - {""})) or "no methods"
            raise NotFoundError(f"{words(function.spec.tag)} has no method {method!r}; it has {there}")
        if pool is None:
            if parameters:
                self.class_pools.check(function, parameters)
            pool = self._known_pool(function_id, parameters)
        return pool

    def remove_pool(self, key: str | class_pools.Key) -> None:
        """Nothing is left of it, or it has another place."""
        del self.pools[key]
        self.class_pools.removed(key)

    def release(self, functions: set[str]) -> None:
        """These are not held any more."""
        self.held -= functions
        for function in functions:
            for pool in self.pools_of_function(function):
                pool.rescale()

    def pools_of_function(self, function_id: str) -> list[Pool]:
        """Where calls of it go: one for each set of class parameters that was used. Not those of versions before or to come."""
        return [pool for key, pool in self.pools.items() if key == function_id or (type(key) is tuple and key[0] == function_id)]

    def web_pool(self, function_id: str) -> Pool | None:
        """Where web requests of a function wait."""
        return self._pool(function_id, b"")

    def adopt(self, pool: Pool) -> None:
        """Watch a pool that no calls go to: of a version that is to come, or of one that is replaced."""
        self._beside += 1
        self.pools[(f"{pool.function.id}~{self._beside}", pool.parameters)] = pool

    def install(self, pool: Pool, before: Pool) -> None:
        """Calls go to `pool` from now on, in the place of `before`, which is watched until its last container has gone."""
        self.disown(pool)
        for key, known in list(self.pools.items()):
            if known is before:
                self.pools[key] = pool
        if before.members:
            self.adopt(before)

    def disown(self, pool: Pool) -> None:
        """Nothing of the pool is left, or it has another place."""
        for key, known in list(self.pools.items()):
            if known is pool:
                self.remove_pool(key)

    def pool_of(self, container: str) -> Pool | None:
        """The pool that a container belongs to."""
        member = self.members.get(container)
        return None if member is None else member.pool

    def members_of(self, app: str) -> list[Member]:
        """The containers of an app, whatever the version of their function."""
        return [member for member in self.members.values() if member.pool.function.app == app]

    def pools_of(self, app: str) -> list[Pool]:
        return [pool for pool in self.pools.values() if pool.function.app == app]

    # inputs

    def submit(self, call: Call, caller: Caller) -> None:
        """Take an input from a client. The same (call, index) again is answered from what is known of it."""
        key = (call.call, call.index)
        known = self.inputs.get(key)
        if known is not None:
            self._attach(known, call, caller)
            return
        if key in self.kept:
            caller.send(Output(call.request, *self.kept.take(key), call.index))
            return
        if call.function in self._expected and call.function not in self.functions:
            self._expected[call.function].append((call, caller))
            return
        try:
            pool = self.pool_for(call.function, call.parameters, call.method)
        except Error as error:
            caller.send(fault(call.request, error))
            return
        if call.parameters:
            call.parameters = pool.parameters  # the same bytes, not a copy for each input
        # A map that was let in sends the rest of its inputs as it gets results: those are bounded by it.
        if pool.calls.full and (call.hold == DURABLE or call.index == 0):
            limit = "" if pool.spec.scaling.max_pending is None else f" (max_pending={pool.spec.scaling.max_pending})"
            message = f"{len(pool.queue)} inputs wait for {words(pool.spec.tag)} already{limit}; try again later"
            caller.send(fault(call.request, ResourceExhaustedError(message)))
            return
        item = RoutedInput(call, pool, caller, self.now())
        self.inputs[key] = item
        self._hold_parcel(item)
        if item.durable:
            item.caller = None
            self.spawned.accept(item, caller)
        else:
            self.queue(item)

    def queue(self, item: RoutedInput) -> None:
        """Into its pool. One that was removed since it was unused is made again: the input was on its way from its client, or to the disk."""
        pool = item.pool
        if pool.parameters and not pool.calls.closed:
            self.class_pools.used((pool.function.id, pool.parameters))
            item.pool = pool = self._pool(pool.function.id, pool.parameters) or pool
        pool.submit(item)

    def _attach(self, item: RoutedInput, call: Call, caller: Caller) -> None:
        if item.delivered:
            caller.send(fault(call.request, interrupted(words(item.pool.spec.tag), item.delivered)))
            if item.caller is None or item.caller.gone:
                item.pool.cancel(item)
            return
        if item.durable:
            caller.send(Accepted(call.request))
            return
        awaiting = item.awaiting_resend
        item.caller, item.request = caller, call.request
        if awaiting:
            item.call = call
            self._hold_parcel(item)
            if self._awaiting_resend.pop(item.key, None) is not None:
                self.queue(item)

    def await_resend(self, item: RoutedInput) -> None:
        """It is to be run again, with what its client will send."""
        self._awaiting_resend[item.key] = item
        self.later(ORPHAN_KEPT_S, lambda: self._drop_awaiting_resend(item))

    def _drop_awaiting_resend(self, item: RoutedInput) -> None:
        if self._awaiting_resend.pop(item.key, None) is not None:
            item.pool.calls.move(item, InputState.CANCELLED, self.now(), "its client did not come back")
            self.drop(item)

    def recover(self, row: InputRow) -> None:
        """After a restart: an accepted input that has no outcome yet."""
        pool = self._pool(row.function, row.parameters)
        if pool is None or (row.call, row.index) in self.inputs:
            return
        call = Call(0, row.function, row.call, row.index, row.data, row.method, 1, 0, row.parameters, row.parent)
        item = RoutedInput(call, pool, None, self.now())
        self.spawned.take_up(item, row)
        self.inputs[item.key] = item
        self.queue(item)

    def end(self, item: RoutedInput, status: int, data: bytes) -> None:
        """The outcome of an input: kept or delivered, once."""
        self.history.ended(item, status, data, self.now())
        self._drop_parcel(item)
        if item.durable:
            self.spawned.end(item, status, data)
            return
        del self.inputs[item.key]
        self.deliver(item, status, data)

    def deliver(self, item: RoutedInput, status: int, data: bytes) -> None:
        caller = item.caller
        if item.delivered and status == OK and (caller is None or caller.gone):  # whoever asks again has had some items, and not these
            status, data = FAILED, pack_fault(interrupted(words(item.pool.spec.tag), item.delivered))
        if item.awaiting_resend:
            self.kept.keep(item.key, status, data)
        elif caller is not None:
            if caller.gone:
                self.kept.keep(item.key, status, data)
            else:
                caller.send(Output(item.request, status, data, item.index))
        for waiter, request in item.waiters or ():
            waiter.send(Output(request, status, data, item.index))

    def drop(self, item: RoutedInput) -> None:
        """The app of a queued input has ended; the store is told of all of them at once."""
        self._drop_parcel(item)
        self.inputs.pop(item.key, None)
        self.deliver(item, CANCELLED, b"")

    def _hold_parcel(self, item: RoutedInput) -> None:
        if self.parcels is not None and item.call.data[:1] == b"\0":
            self.parcels.hold(item.call.data)

    def _drop_parcel(self, item: RoutedInput) -> None:
        if self.parcels is not None and item.call.data[:1] == b"\0":
            self.parcels.drop(item.call.data)

    def attempt_failed(self, item: RoutedInput, why: str) -> None:
        """An attempt failed and another one follows: kept for `squall call show`, also over a restart."""
        self.store.record([EventRow(time.time(), input_id(item.call.call, item.index), "attempt failed", " ".join(why.split())[:300])])

    def end_with(self, item: RoutedInput, error: Error) -> None:
        """An input ends with an error of the platform."""
        self.end(item, FAILED, pack_fault(error))

    def cancel(self, message: Cancel) -> None:
        """A client does not want these inputs any more."""
        for item in self.inputs.of_call(message.call):
            if message.indexes and item.index not in message.indexes:
                continue
            member = item.member
            item.pool.cancel(item)
            if message.terminate and member is not None and item.token in member.running:
                item.pool.dismiss(member, "terminated with its call", 0.0)

    def credit(self, message: Credit) -> None:
        item = self.inputs.get((message.call, message.index))
        if item is not None and item.member is not None:
            item.credit += message.items
            item.member.tell(More(item.token, message.items))

    # containers

    def start_container(self, pool: Pool, placement: Placement, now: float) -> Member:
        """Order a container from the node's agent."""
        function = pool.function
        container = ContainerId(make_id(CONTAINER, time.time_ns() // 1_000_000, os.urandom(10)))
        member = Member(container, pool, placement, now)
        order = StartContainer(
            container, function.app, function.app_name, function.id, function.packed, function.image_name, function.layer_names, dict(function.functions),
            dict(function.spec.env), pool.parameters, placement.devices, placement.gpu_type, placement.node.name,
        )  # fmt: skip
        member.ordered_at = self.now()
        member.tell = member.link.start(order, member)
        self.container_changed(member)
        self.busy(pool)
        return member

    def link_of(self, node: Node) -> NodeLink:
        """With the agent of this machine."""
        return self.links[node.name]

    def container_changed(self, member: Member, reason: str = "") -> None:
        self.on_container(member.pool, member, str(member.state), reason)
        member.reason = reason
        if not member.recording:
            self.own(record_container(self.store, member, time.time))

    def container_gone(self, pool: Pool, member: Member, reason: str) -> None:
        self.container_changed(member, reason)
        self.history.container_gone(member)
        self.logs.close(member.id)
        self.room.given_back()
        if pool.calls.replaced and not pool.members and not pool.queue:
            self.disown(pool)
        app = pool.function.app
        if app in self._empty and not self.members_of(app):
            for event in self._empty.pop(app):
                event.set()

    def printed(self, pool: Pool, member: Member, item: Input | None, stream: int, data: bytes) -> None:
        owner = "" if item is None else f"in-{item.call.call[3:]}-{item.index}"
        self.logs.write(pool.function.app, LogChunk(0, member.id, pool.spec.tag, stream, data, time.time(), owner))

    # apps

    async def end_app(self, app: str, reason: str, *, keep: bool = False) -> None:
        """End everything of an app and wait until none of its containers is left. `keep`: its inputs stay as they are, for the server's next life."""
        pools = self.pools_of(app)
        now = time.time()
        functions = [FunctionId(function.id) for function in self.functions.values() if function.app == app]
        if not keep:
            self.own(persist(lambda: self.store.cancel_functions(functions, now, now + self.spawned.kept_s), limit_s=ENDING_S))
        for pool in pools:
            pool.close(reason, keep=keep)
        for item in [] if keep else [item for item in self._awaiting_resend.values() if item.pool.function.app == app]:
            self._drop_awaiting_resend(item)
        if any(pool.members for pool in pools):
            event = asyncio.Event()
            self._empty.setdefault(app, []).append(event)
            await event.wait()
        for key in [key for key, pool in self.pools.items() if pool.function.app == app]:
            self.remove_pool(key)
        for function in [function for function in self.functions.values() if function.app == app]:
            del self.functions[function.id]
        if not keep:  # once more, for what was being accepted meanwhile
            await persist(lambda: self.store.cancel_functions(functions, now, now + self.spawned.kept_s), limit_s=ENDING_S)
        for link in self.links.values():
            await link.agent.forget_app(app)
        self.logs.finish_app(app)

    # time

    def next_token(self) -> int:
        self._token += 1
        return self._token

    @property
    def highest_token(self) -> int:
        """The last that was given."""
        return self._token

    def raise_token(self, above: int) -> None:
        """Tokens to come are higher than this."""
        self._token = max(self._token, above)

    def later(self, delay_s: float, action: Callable[[], Any]) -> None:
        self._loop.call_later(delay_s, action)

    def busy(self, pool: Pool) -> None:
        """Something of this pool starts or runs: watch it."""
        self._busy[pool] = None
        if not self._watching:
            self._watching = True
            self.later(WATCH_S, self._watch)

    def _watch(self) -> None:
        now = self.now()
        for pool in list(self._busy):
            if not pool.check(now):
                del self._busy[pool]
        self._watching = bool(self._busy)
        if self._watching:
            self.later(WATCH_S, self._watch)

    def own(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: "asyncio.Task[Any]") -> None:
        self._writes.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a write failed: %s", error)

    async def settle(self) -> None:
        """Wait for writes that are under way."""
        while self._writes:
            await asyncio.wait(set(self._writes))

    def statistics(self) -> Statistics:
        return Statistics(
            pools=len(self.pools),
            containers=len(self.members),
            queued=sum(len(pool.queue) for pool in self.pools.values()),
            running=sum(len(member.running) for member in self.members.values()),
            inputs_done=self.history.total,
        )
