// read_disks AGENT:PORT FOLDER-WITH-CERTIFICATES VM FOLDER: every disk of a VM into a sparse file: open, read, verify, close.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"lukechampine.com/blake3"

	"hotadd/v1"
)

func run(target, pki, vm, folder string) (err error) {
	ctx := context.Background()
	channel, err := connect(target, pki)
	if err != nil {
		return err
	}
	defer channel.Close()
	disks := v1.NewDiskServiceClient(channel)
	take := &v1.OpenDisksRequest_Take{Take: &v1.SnapshotRequest{Consistency: v1.Consistency_CONSISTENCY_PREFER_APP}}
	id := fmt.Sprintf("read_disks-%d", time.Now().UnixNano())
	session, err := disks.OpenDisks(ctx, &v1.OpenDisksRequest{RequestId: id, Vm: vm, From: take})
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go renew(disks, session, stop)
	defer func() {
		close(stop)
		closed, failed := disks.CloseDisks(ctx, &v1.CloseDisksRequest{SessionId: session.SessionId})
		if err == nil && failed != nil {
			err = failed
		} else if err == nil && closed.Cleanup != v1.Cleanup_CLEANUP_DONE {
			err = fmt.Errorf("the agent still owes clean-up: %s", closed.Reasons[0].Message)
		}
	}()
	for _, disk := range session.Disks {
		if !disk.Opened {
			return fmt.Errorf("%s: %v", disk.Disk.Label, disk.Reasons)
		}
		if err := read(ctx, disks, session.SessionId, disk.Disk, filepath.Join(folder, fmt.Sprintf("%d.raw", disk.Disk.DeviceKey))); err != nil {
			return err
		}
	}
	return nil
}

// renew keeps the session until it is stopped. One that has ended says so to whoever reads it.
func renew(disks v1.DiskServiceClient, session *v1.OpenDisksResponse, stop chan struct{}) {
	clock := time.NewTicker(time.Duration(session.LeaseSeconds) * time.Second / 3)
	defer clock.Stop()
	for {
		select {
		case <-stop:
			return
		case <-clock.C:
			_, _ = disks.KeepAlive(context.Background(), &v1.KeepAliveRequest{SessionId: session.SessionId})
		}
	}
}

func read(ctx context.Context, disks v1.DiskServiceClient, session string, disk *v1.DiskFacts, path string) error {
	image, err := os.Create(path)
	if err != nil {
		return err
	}
	defer image.Close()
	if err := image.Truncate(int64(disk.CapacityBytes)); err != nil {
		return err
	}
	stream, err := disks.ReadDisk(ctx, &v1.ReadDiskRequest{SessionId: session, DeviceKey: disk.DeviceKey})
	if err != nil {
		return err
	}
	whole, at := blake3.New(32, nil), uint64(0)
	for {
		answer, err := stream.Recv()
		if err != nil { // also io.EOF: a stream without `done` was cut
			return err
		}
		if done := answer.GetDone(); done != nil {
			if !done.Ok || at != disk.CapacityBytes {
				return fmt.Errorf("%s: %d bytes came: %v", disk.Label, at, done.Reasons)
			}
			break
		}
		frame := answer.GetFrame()
		data := frame.Data
		if frame.Zero {
			data = make([]byte, frame.Length)
		}
		if sum := blake3.Sum256(data); frame.Offset != at || uint32(len(data)) != frame.Length || !bytes.Equal(sum[:], frame.Blake3) {
			return fmt.Errorf("%s: the block at %d is not the one at %d, or was damaged", disk.Label, frame.Offset, at)
		}
		whole.Write(data)
		if !frame.Zero {
			if _, err := image.WriteAt(data, int64(at)); err != nil {
				return err
			}
		}
		at += uint64(len(data))
	}
	written := blake3.New(32, nil)
	if _, err := io.Copy(written, image); err != nil {
		return err
	}
	if !bytes.Equal(written.Sum(nil), whole.Sum(nil)) {
		return fmt.Errorf("%s does not hold what came", path)
	}
	fmt.Printf("%x  %s\n", whole.Sum(nil), path)
	return nil
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fail(err)
	}
}
