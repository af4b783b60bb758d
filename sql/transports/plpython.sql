-- The plpython transport: a socket to the sidecar, kept open for the session, with length-framed JSON.
-- Errors are returned as the sidecar's are, for embed._ask to raise: PL/Python would put "plpy.Error:" before the message.

CREATE OR REPLACE FUNCTION embed._call(request text, timeout double precision)
RETURNS text
LANGUAGE plpython3u
VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, embed, pg_temp
AS $python$
import os

client = SD.get("client")
if client is None or client.pid != os.getpid():
    import errno
    import json
    import select
    import socket
    import time

    SLICE = 0.02  # seconds between two looks at cancel and statement_timeout
    MAX_FRAME = 64 * 1024 * 1024  # bytes
    HINT_START = 'start it with "pg-embed serve"; "pg-embed doctor" tells what is missing'
    HINT_WAIT = "the model may be loading, or the sidecar busy: try again, or set embed.timeout higher"
    HINT_RETRY = "try again; if it happens again, restart the sidecar"

    class Expired(Exception):
        pass

    class Client:
        def __init__(self):
            self.pid = os.getpid()
            self.sock = None
            self.check_interrupts = plpy.prepare("SELECT pg_catalog.pg_sleep(0)")

        def call(self, request, timeout):
            request_id = json.loads(request).get("id")
            timeout = 30.0 if timeout is None else timeout
            failure = None
            try:
                answer = self.exchange_once_or_twice(request.encode("utf-8"), time.monotonic() + timeout)
            except Expired:
                failure = "PE011", "no answer from the sidecar within %g s" % timeout, HINT_WAIT
            except OSError as error:
                failure = "PE010", "the sidecar cannot be reached: %s" % error, HINT_START
            except BaseException:  # cancelled: a late answer must not be taken for a later request's
                self.close()
                raise
            if failure is None and not self.belongs(answer, request_id):
                failure = "PE020", "the answer belongs to another request", HINT_RETRY
            if failure is None:
                return answer
            self.close()
            return json.dumps({"id": request_id, "error": dict(zip(("code", "message", "hint"), failure))})

        def belongs(self, answer, request_id):
            if request_id is not None and answer.startswith('{"id":"%s"' % request_id):
                return True
            parsed = json.loads(answer)
            return parsed.get("id") == request_id or (parsed.get("id") is None and "error" in parsed)

        def exchange_once_or_twice(self, request, deadline):
            if self.sock is not None:
                try:
                    return self.exchange(request, deadline)
                except OSError:  # the sidecar was restarted or closed an idle connection; asking twice does no harm
                    self.close()
            self.connect(deadline)
            return self.exchange(request, deadline)

        def exchange(self, request, deadline):
            self.send(len(request).to_bytes(4, "big") + request, deadline)
            return self.receive(deadline).decode("utf-8")

        def send(self, data, deadline):
            view = memoryview(data)
            while view:
                try:
                    view = view[self.sock.send(view):]
                except socket.timeout:
                    self.pause(deadline)

        def receive(self, deadline):
            data = bytearray()
            end = 4
            while len(data) < end:
                try:
                    chunk = self.sock.recv(max(65536, end - len(data)))
                except socket.timeout:
                    self.pause(deadline)
                    continue
                if not chunk:
                    raise ConnectionResetError("the sidecar closed the connection")
                data += chunk
                if end == 4 and len(data) >= 4:
                    end += int.from_bytes(data[:4], "big")
            if len(data) > end or end > MAX_FRAME:
                raise ConnectionResetError("the sidecar sent what is not a frame")
            return bytes(data[4:])

        def pause(self, deadline):
            plpy.execute(self.check_interrupts)
            if time.monotonic() > deadline:
                raise Expired

        def connect(self, deadline):
            row = plpy.execute("SELECT t.settings::text AS settings FROM embed._transport AS t", 1)
            settings = json.loads(row[0]["settings"]) if len(row) else {}
            if "socket" in settings:
                self.open(socket.AF_UNIX, settings["socket"], deadline)
                return
            if "host" not in settings:
                raise OSError("embed._transport names neither a socket nor a host")
            addresses = socket.getaddrinfo(settings["host"], settings["port"], type=socket.SOCK_STREAM)
            for number, address in enumerate(addresses, 1):
                try:
                    self.open(address[0], address[4], deadline)
                    break
                except OSError:
                    if number == len(addresses):
                        raise
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.authenticate(settings.get("token_file"), deadline)

        def open(self, family, address, deadline):
            self.close()
            self.sock = sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            code = sock.connect_ex(address)
            while code == errno.EAGAIN:  # the sidecar's backlog is full
                time.sleep(0.005)
                self.pause(deadline)
                code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                waiter = select.poll()
                waiter.register(sock, select.POLLOUT)
                while not waiter.poll(SLICE * 1000):
                    self.pause(deadline)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.close()
                raise OSError(code, "%s: %s" % (os.strerror(code), address))
            sock.settimeout(SLICE)

        def authenticate(self, token_file, deadline):
            if token_file is None:
                token = ""
            else:
                with open(token_file, encoding="utf-8") as file:
                    token = file.read().strip()
            answer = json.loads(self.exchange(json.dumps({"token": token}).encode("utf-8"), deadline))
            if not answer.get("ok"):
                raise PermissionError(answer.get("error", {}).get("message", "the token was refused"))

        def close(self):
            sock, self.sock = self.sock, None
            if sock is not None:
                sock.close()

    client = SD["client"] = Client()
return client.call(request, timeout)
$python$;
COMMENT ON FUNCTION embed._call(text, double precision) IS 'Send a request to the sidecar and return its answer, through a socket that the session keeps.';
REVOKE ALL ON FUNCTION embed._call(text, double precision) FROM PUBLIC;
