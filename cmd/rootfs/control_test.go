package main

import (
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/DragonOS-Community/rootfs/overlay"
)

// Until the socket has its permissions, anybody can connect to it.
func TestOnlyTheOwnerIsAnswered(t *testing.T) {
	need(t, "root")
	p := &overlay.Project{Root: t.TempDir()}
	if err := p.MakeStateDir(); err != nil {
		t.Fatal(err)
	}
	s, err := serveControl(p, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := os.Chmod(s.file, 0o777); err != nil {
		t.Fatal(err)
	}
	reachable(t, s.file)
	t.Setenv(testUserEnv, strconv.Itoa(nobody))
	asTestUser(t, func() {
		_, err := askDaemon(p, &controlRequest{Op: "end"})
		if err == nil || !strings.Contains(err.Error(), "only the user who mounted it") {
			t.Errorf("another user is told %v", err)
		}
	})
	select {
	case <-s.ended:
		t.Fatal("another user ends the daemon")
	default:
	}
	if _, err := askDaemon(p, &controlRequest{Op: "end"}); err != nil {
		t.Fatal(err)
	}
	<-s.ended
}

// listenAsDaemon listens where a project's daemon does.
func listenAsDaemon(t *testing.T, p *overlay.Project) (listener net.Listener) {
	t.Helper()
	err := withSocket(p, func(path string) (err error) {
		listener, err = net.Listen("unix", path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// A request that a daemon hasn't taken before its end is asked again.
func TestRequestOfADaemonThatEnds(t *testing.T) {
	p := &overlay.Project{Root: t.TempDir()}
	if err := p.MakeStateDir(); err != nil {
		t.Fatal(err)
	}
	listener := listenAsDaemon(t, p)
	asked := make(chan error)
	go func() {
		_, err := askDaemon(p, &controlRequest{Op: "checkpoint"})
		asked <- err
	}()
	time.Sleep(50 * time.Millisecond) // sooner, it is refused, which comes to the same
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-asked; patienceWith(err) == 0 {
		t.Errorf("it is told %v", err)
	}
}
