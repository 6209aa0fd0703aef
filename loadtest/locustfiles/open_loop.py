"""The engine: arrivals at their intended instants, whatever the service does.

Run by `loadtest.run` as `locust -f open_loop.py --headless -u 1`, in a process of its own: importing
locust patches the standard library. One locust user carries the whole crowd; each citizen is a greenlet
of a bounded pool, and what the crowd sees is fired as locust request events too, so locust's own reports
show the run. Everything that decides anything is in pure modules of `loadtest`; here is only the edge:
sockets, timers, the pipe of the controller.

Three things of geventhttpclient are avoided on purpose. Its `HTTPClient.request` sends a GET again, up to
the size of its pool, when a connection closes: a hidden amplification. `FastHttpUser` does not verify TLS
and follows redirects. And both resolve names on each connection, where we connect to the pinned address.
So the pools and the parser are used, and the twenty lines between them are ours.
"""

import ctypes
import gc
import json
import os
import struct
import sys
import time
import traceback
from pathlib import Path
from urllib.parse import quote

import gevent
import gevent.event
import gevent.pool
import gevent.socket
import gevent.ssl
from geventhttpclient.connectionpool import ConnectionPool, SSLConnectionPool
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse
from locust import User, task

from loadtest import citizens, guard
from loadtest.citizens import Ending, Outcome
from loadtest.plan import BEATS_MISSING_S, ENV_CONTROL, ENV_PLAN, load
from loadtest.record import Recorder
from loadtest.shapes import arrivals

_NAP_MAX_S = 0.2  # the longest the scheduler sleeps without looking whether it shall stop
_CLOCK_MONOTONIC = 1
_SOFTWARE = 70  # sysexits: an internal error


class Timer:
    """Sleeps to within 0.1 ms (timerfd). libev rounds its own timers up to a millisecond."""

    def __init__(self):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._hub = gevent.get_hub()
        self._ready = self._hub.loop.io(self._fd, 1)

    def sleep(self, seconds):
        whole = int(seconds)
        nanos = max(1, int((seconds - whole) * 1e9))
        if self._libc.timerfd_settime(self._fd, 0, struct.pack("qqqq", 0, 0, whole, nanos), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._hub.wait(self._ready)
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass


class Doorway:
    """One door: its pool of connections, to the pinned address, verified against the stack's CA."""

    def __init__(self, door, *, plan):
        reason = guard.why_not_address(door.address, declared=plan.declared)
        if reason:  # the controller has checked; a plan written by hand has not been
            raise guard.NotOurs(f"{door.url}: {reason}")
        common = {
            "size": plan.caps.in_flight,
            "connection_timeout": plan.patience.connect_timeout_s,
            # Longer than anybody waits: the citizen's own deadline is the one that ends an attempt.
            "network_timeout": plan.patience.refresh_after_s + 5,
        }
        if door.tls:
            options = {"server_hostname": door.host}
            if plan.ca_file:
                options["ca_certs"] = plan.ca_file
            self.pool = SSLConnectionPool(
                door.address,
                door.port,
                door.host,
                door.port,
                ssl_options=options,
                ssl_context_factory=_verifying_context,
                **common,
            )
        else:
            self.pool = ConnectionPool(door.address, door.port, door.host, door.port, **common)
        host = f"[{door.host}]" if ":" in door.host else door.host
        keep = "close" if plan.fresh_connections else "keep-alive"
        self.headers = (
            f"Host: {host}:{door.port}\r\nConnection: {keep}\r\n"
            "User-Agent: zaibei-surge\r\nAccept: application/json\r\n"
        )

    def ask(self, method, path, body, who=""):
        """One request on one connection, never repeated. Returns status, Retry-After, body."""
        head = f"{method} {path} HTTP/1.1\r\n{self.headers}{who}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        raw = head.encode("latin-1") + b"\r\n" + (body or b"")
        sock = self.pool.get_socket()
        try:
            sock.sendall(raw)
        except BaseException:
            self.pool.release_socket(sock)
            raise
        response = HTTPSocketPoolResponse(sock, self.pool, method=method)
        answer = response.read()
        return response.status_code, response.get("retry-after"), answer


def _verifying_context(cafile=None):
    return gevent.ssl.create_default_context(cafile=cafile)


class Engine:
    def __init__(self, plan, recorder, events):
        self.plan = plan
        self.record = recorder
        self.events = events
        self.doors = [Doorway(d, plan=plan) for d in plan.doors]
        self.people = citizens.People(
            count=plan.crowd.count, exponent=plan.crowd.exponent, pattern=plan.crowd.pattern
        )
        self.pool = gevent.pool.Pool(plan.caps.in_flight)
        self.go = gevent.event.AsyncResult()
        self.until_s = float("inf")  # arrivals from here on are not wanted any more
        self.drain_s = plan.drain_s
        self.lost = False  # the controller's pipe is closed or silent
        self.start_s = None
        self.this_second, self.begun = 0, 0

    # -- the controller's pipe ------------------------------------------------------------

    def listen(self, fd):
        """`beat`, `go <monotonic s>`, `stop <s to drain>`; an end of file is a dead controller."""
        buffer = b""
        while True:
            block = b""
            with gevent.Timeout(BEATS_MISSING_S, False):
                gevent.socket.wait_read(fd)
                block = os.read(fd, 4096)
            if not block:
                self.lost = True
                if not self.go.ready():
                    self.go.set(None)
                return
            *lines, buffer = (buffer + block).split(b"\n")
            for line in lines:
                word, _, rest = line.partition(b" ")
                if word == b"go":
                    self.go.set(float(rest))
                elif word == b"stop":
                    self.until_s = time.monotonic() - (self.start_s or time.monotonic())
                    self.drain_s = min(self.drain_s, float(rest))

    # -- the crowd ------------------------------------------------------------------------

    def run(self):
        self.record.ready(
            scenario=self.plan.scenario,
            seed=self.plan.seed,
            worker=self.plan.worker,
            of=self.plan.of,
        )
        self.start_s = self.go.get()
        if self.start_s is None:
            return "controller-lost", 0.0
        gc.collect()
        gc.freeze()  # a full collection of locust's own objects is a 30 ms pause in the crowd
        writer = gevent.spawn(self._write_each_second)
        writer.link_exception(_die)
        self._let_them_come()
        # The end of the arrivals is the end of what was intended; those inside may finish.
        deadline_s = time.monotonic() + self.drain_s
        while len(self.pool) and not self.lost and time.monotonic() < deadline_s:
            self.pool.join(timeout=_NAP_MAX_S)
        writer.kill()
        self._write_second()
        if self.lost:
            return "controller-lost", time.monotonic() - self.start_s
        if self.until_s < self.plan.shape.duration_s:
            return "stopped", self.until_s
        return "finished", self.plan.shape.duration_s

    def _let_them_come(self):
        timer = Timer()
        plan = self.plan
        for arrival in arrivals(
            plan.shape, plan.spacing, seed=plan.seed, worker=plan.worker, of=plan.of
        ):
            self._sleep_until(timer, arrival.at_s)
            # Whatever was due before the stop still goes out: a generator that is behind must not
            # be able to hide it by being stopped.
            if self.lost or arrival.at_s >= self.until_s:
                return
            self.record.arrived(arrival.at_s)
            if self.pool.free_count() > 0:
                # A citizen that dies of our bug must not be counted against the service.
                self.pool.spawn(self._citizen, arrival).link_exception(_die)
            else:
                self.record.dropped(arrival.at_s)
        self._sleep_until(timer, plan.shape.duration_s)

    def _sleep_until(self, timer, at_s):
        due_s = self.start_s + at_s
        while (ahead_s := due_s - time.monotonic()) > 0 and not self.lost and at_s < self.until_s:
            timer.sleep(min(ahead_s, _NAP_MAX_S))

    def _citizen(self, arrival):
        intended_s = self.start_s + arrival.at_s
        luck = citizens.luck_of(self.plan.seed, arrival.index)
        visit = citizens.choose(self.plan.visits, luck)
        known = citizens.comers(self.plan.session_key)(self.people.draw(luck))
        due_s, outcome, door, first = intended_s, Outcome.OK, 0, True
        for step in visit.steps:
            # Each citizen begins at the first door and stays where it was served.
            outcome, due_s, door = self._step(step, known, luck, due_s, door, first)
            first = False
            if outcome is not Outcome.OK:
                break
        self.record.citizen(
            intended_s=arrival.at_s,
            ending=citizens.ending_of(outcome),
            took_s=due_s - intended_s,  # the next thing is due when the last one is done
        )

    def _step(self, step, known, luck, due_s, door, first):
        """Ask until served or out of patience. Returns the last outcome, its instant and its door."""
        asked = 0
        while True:
            asked += 1
            outcome, retry_after_s, done_s = self._attempt(
                step, known, door, due_s, first=first and asked == 1, again=asked > 1
            )
            move = citizens.next_move(
                self.plan.patience,
                outcome=outcome,
                asked=asked,
                door=door,
                doors=len(self.doors),
                luck=luck,
                retry_after_s=retry_after_s,
            )
            if move is None or self.lost:
                return outcome, done_s, door
            door, due_s = move.door, done_s + move.after_s
            if move.after_s > 0:
                gevent.sleep(move.after_s)

    def _attempt(self, step, known, door, due_s, *, first, again):
        now_s = time.monotonic()
        if not self._allowed(now_s):
            self.record.withheld()
            return Outcome.WRONG, None, now_s
        self.record.sent(lag_s=now_s - due_s if first else None, again=again)
        path = _fill(step.path, known, quoted=True)
        body = None
        if step.body is not None:
            body = json.dumps({k: _fill(v, known) for k, v in step.body.items()}).encode()
        who = f"Authorization: Bearer {_fill(step.bearer, known)}\r\n" if step.bearer else ""
        retry_after_s, reason, size, error, done_s = None, "", 0, None, None
        try:
            with gevent.Timeout(self.plan.patience.refresh_after_s):
                status, retry_after, answer = self.doors[door].ask(step.method, path, body, who)
            done_s = time.monotonic()
            # When a stalled service thaws, a hundred answers are here at once. Each one's clock is
            # read first and its bookkeeping done after the others': otherwise the last of them is
            # measured as late as ours took to count the first.
            gevent.sleep(0)
            size = len(answer)
            outcome = citizens.outcome_of(status, ok=step.ok, retry_after=retry_after is not None)
            if outcome is Outcome.OK:
                if step.keeps or step.says:
                    said = json.loads(answer)
                    known.update({k: str(said[k]) for k in step.keeps})
                    for key, wanted in (step.says or {}).items():
                        if said.get(key) != wanted:
                            outcome = Outcome.WRONG
                            reason = f"{step.name}: {key} is not {wanted}"
            else:
                reason = f"{step.name}: {status}"
                retry_after_s = _seconds(retry_after)
        except gevent.Timeout as late:
            outcome, reason, error = Outcome.TIMEOUT, f"{step.name}: no answer in time", late
        except (OSError, HTTPParseError) as broken:
            outcome, error = Outcome.UNREACHABLE, broken
            reason = f"{step.name}: {type(broken).__name__}: {_short(broken)}"
        except (ValueError, KeyError, TypeError) as garbled:
            outcome, error = Outcome.ERROR, garbled
            reason = f"{step.name}: not the JSON answer that was agreed"
        if done_s is None:
            done_s = time.monotonic()
        took_s = done_s - due_s
        self.record.request(
            intended_s=due_s - self.start_s,
            step=step.name,
            outcome=outcome,
            took_s=took_s,
            reason=reason if reason and len(self.doors) == 1 else f"door {door + 1}: {reason}",
        )
        if outcome is not Outcome.OK and error is None:
            error = RuntimeError(reason)
        self.events.request.fire(
            request_type=step.method,
            name=step.name,
            response_time=took_s * 1000,
            response_length=size,
            exception=error,
            context={},
            response=None,
        )
        return outcome, retry_after_s, done_s

    def _allowed(self, now_s):
        second = int(now_s)
        if second != self.this_second:
            self.this_second, self.begun = second, 0
        self.begun += 1
        return self.begun <= self.plan.caps.requests_rps and not self.lost

    # -- the record -----------------------------------------------------------------------

    def _write_each_second(self):
        self.cpu_s = time.process_time()
        tick = 0
        while True:
            tick += 1
            gevent.sleep(max(0.0, self.start_s + tick - time.monotonic()))
            self._write_second()

    def _write_second(self):
        cpu_s = time.process_time()
        self.record.second(
            at_s=time.monotonic() - self.start_s,
            in_flight=len(self.pool),
            cpu_s=cpu_s - getattr(self, "cpu_s", cpu_s),
        )
        self.cpu_s = cpu_s


def _fill(text, known, *, quoted=False):
    for name, value in known.items():
        text = text.replace("{" + name + "}", quote(value, safe="") if quoted else value)
    return text


def _seconds(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return None  # absent, or an HTTP date: the citizen does not do sums


def _short(error):
    return str(error)[:80]


def _die(greenlet=None):
    """A bug of ours, or a full disk: end without an `end` line, which makes the run INVALID."""
    if greenlet is None:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(_SOFTWARE)


class Citizens(User):
    @task
    def come(self):
        try:
            self._come()
        except Exception:
            # locust would log it and call the task again: a second crowd on top of the first.
            _die()

    def _come(self):
        path = Path(os.environ[ENV_PLAN])
        plan = load(path)
        recorder = Recorder(path.with_name(f"results-{plan.worker}.jsonl"))
        engine = Engine(plan, recorder, self.environment.events)
        listener = gevent.spawn(engine.listen, int(os.environ[ENV_CONTROL]))
        listener.link_exception(_die)  # deaf, it would not hear its controller die
        reason, ended_s = engine.run()
        recorder.end(reason=reason, at_s=ended_s, unfinished=len(engine.pool))
        recorder.close()
        listener.kill()
        if engine.lost:
            # Nobody waits for a tidy end, and a greenlet that swallowed its kill could go on sending.
            os._exit(_SOFTWARE)
        gevent.spawn(self.environment.runner.quit)
        gevent.sleep(3600)  # ended by quit
