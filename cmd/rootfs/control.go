package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// A mounted project is changed by its daemon alone. Verbs that change it ask
// the daemon, over a socket in the state directory that answers only its owner
// and root: one request and one reply, a line of JSON each.

// controlRequest asks for one thing.
type controlRequest struct {
	Op         string             `json:"op"` // checkpoint, uncheckpoint, restore, node, chown, setcap, end
	Checkpoint overlay.Checkpoint `json:"checkpoint,omitzero"`
	Paths      [][]byte           `json:"paths,omitempty"` // relative to the root; a name needn't be UTF-8, as a string of JSON must

	Owner      string `json:"owner,omitempty"` // USER, USER:GROUP or :GROUP
	Recursive  bool   `json:"recursive,omitempty"`
	Mode       uint32 `json:"mode,omitempty"` // of a node, with its type
	Rdev       uint64 `json:"rdev,omitempty"` // of a device
	Capability []byte `json:"capability,omitempty"`
}

// controlReply is what came of it.
type controlReply struct {
	Error      string             `json:"error,omitempty"`
	Checkpoint overlay.Checkpoint `json:"checkpoint,omitzero"`
}

const controlName = "control"

// withSocket calls do with a path of the control socket that is short enough
// for a socket address (sun_path holds 108 bytes), however deep the project is.
func withSocket(p *overlay.Project, do func(path string) error) error {
	dir, err := os.Open(p.StateDir())
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // only a way to the socket
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlName))
}

// controlServer answers for a daemon.
type controlServer struct {
	tree     *overlay.Tree
	log      *slog.Logger
	listener *net.UnixListener
	requests sync.WaitGroup // and who takes them
	file     string

	end   func()        // closes ended, once
	ended chan struct{} // the daemon is asked to end
}

// serveControl answers requests until stop is called.
func serveControl(p *overlay.Project, tree *overlay.Tree, log *slog.Logger) (*controlServer, error) {
	ended := make(chan struct{})
	s := &controlServer{
		tree: tree, log: log, file: filepath.Join(p.StateDir(), controlName),
		ended: ended, end: sync.OnceFunc(func() { close(ended) }),
	}
	if err := os.Remove(s.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	err := withSocket(p, func(path string) error {
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		listener.SetUnlinkOnClose(false) // the path is this function's
		s.listener = listener
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(s.file, 0o600); err != nil {
		return nil, errors.Join(err, s.listener.Close())
	}
	s.requests.Go(s.accept)
	return s, nil
}

func (s *controlServer) stop() {
	_ = s.listener.Close()
	_ = os.Remove(s.file)
	s.requests.Wait()
}

func (s *controlServer) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return // closed
		}
		s.requests.Go(func() { s.answer(conn) })
	}
}

// requestLimit is how long a client may take to say what it wants.
const requestLimit = 5 * time.Second

func (s *controlServer) answer(conn *net.UnixConn) {
	defer conn.Close() //nolint:errcheck // the client sees a missing reply
	_ = conn.SetReadDeadline(time.Now().Add(requestLimit))
	var request controlRequest
	if err := json.NewDecoder(conn).Decode(&request); err != nil {
		s.log.Debug("control: unreadable request", "error", err)
		return
	}
	var reply controlReply
	if !mayAsk(conn) {
		reply.Error = "only the user who mounted it may change it"
	} else if request.Op == "end" {
		s.end()
	} else if r, err := perform(s.tree, &request); err != nil {
		reply.Error = oneLine(err)
	} else {
		reply = r
	}
	if err := json.NewEncoder(conn).Encode(&reply); err != nil {
		s.log.Debug("control: the client left", "error", err)
	}
}

// mayAsk tells whether a client is of the daemon's user, or root. The socket's
// permissions don't say: anybody could connect before they were set.
func mayAsk(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var client *unix.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		client, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return err == nil && asked == nil && (client.Uid == 0 || client.Uid == uint32(os.Geteuid()))
}

// perform does what is asked to a tree that is open for editing: in a daemon,
// or in the program itself when the project isn't mounted.
func perform(tree *overlay.Tree, r *controlRequest) (reply controlReply, err error) {
	switch r.Op {
	case "checkpoint":
		reply.Checkpoint, err = tree.Checkpoint(r.Checkpoint)
	case "uncheckpoint":
		err = tree.Uncheckpoint(r.Checkpoint.ID)
	case "restore":
		err = restorePaths(tree, r)
	case "node":
		err = makeNode(tree, r)
	case "chown":
		err = chown(tree, r)
	case "setcap":
		err = r.eachPath(func(path string) error { return tree.SetCapability(path, r.Capability) })
	default:
		err = fmt.Errorf("request %s: unknown to this daemon; unmount and mount again with this version", quoted(r.Op))
	}
	return reply, err
}

// eachPath calls do with the paths, up to the first error.
func (r *controlRequest) eachPath(do func(path string) error) error {
	for _, path := range r.Paths {
		if err := do(string(path)); err != nil {
			return err
		}
	}
	return nil
}

// restorePaths makes paths what they were at a checkpoint; in the layers for
// none.
func restorePaths(tree *overlay.Tree, r *controlRequest) (err error) {
	from, err := overlay.Open(tree.Project(), overlay.Options{
		ReadOnly: true, Checkpoint: r.Checkpoint.ID, WithoutEdits: r.Checkpoint.ID == "",
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	paths := make([]string, len(r.Paths))
	for i, path := range r.Paths {
		paths[i] = string(path)
	}
	return tree.Restore(from, paths...)
}

// absentError is a daemon that doesn't listen yet, or no more: it begins or ends.
type absentError struct{ error }

// askDaemon sends a request to the daemon of a mounted project.
func askDaemon(p *overlay.Project, r *controlRequest) (reply controlReply, err error) {
	err = withSocket(p, func(path string) error {
		conn, err := net.Dial("unix", path)
		if err != nil {
			err = fmt.Errorf("%s: the daemon can't be asked: %w", quoted(filepath.Join(p.StateDir(), controlName)), bare(err))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
				return &absentError{err}
			}
			return err
		}
		defer conn.Close() //nolint:errcheck // all was read
		if err = json.NewEncoder(conn).Encode(r); err == nil {
			err = json.NewDecoder(conn).Decode(&reply)
		}
		if err != nil {
			unanswered := fmt.Errorf("the daemon ended without an answer; its log is %s", quoted(filepath.Join(p.StateDir(), "mount.log")))
			if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
				return &absentError{unanswered} // nor has it read the request
			}
			return unanswered
		}
		if reply.Error != "" {
			return errors.New(reply.Error)
		}
		return nil
	})
	return reply, err
}

// patience is how long a command waits for another one that edits the project.
const patience = 10 * time.Second

// patienceWith is how long to try again after an error that passes.
func patienceWith(err error) time.Duration {
	switch {
	case errors.As(err, new(*absentError)):
		return daemonLimit
	case errors.As(err, new(*overlay.LockedError)):
		return patience
	}
	return 0
}

// edit does a request where it must be done: by the daemon of a mounted
// project, else here. A mount that begins or ends and other commands that edit
// are waited for.
func edit(p *overlay.Project, log *slog.Logger, r *controlRequest) (controlReply, error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		reply, err := tryEdit(p, log, r)
		if time.Since(began) >= patienceWith(err) {
			return reply, err
		}
	}
}

func tryEdit(p *overlay.Project, log *slog.Logger, r *controlRequest) (reply controlReply, err error) {
	state, _, err := readState(p)
	if err != nil {
		return reply, err
	}
	if state != nil {
		return askDaemon(p, r)
	}
	tree, err := overlay.Open(p, overlay.Options{Logger: log})
	if err != nil {
		return reply, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	return perform(tree, r)
}
