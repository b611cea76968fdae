// backup_vm AGENT:PORT FOLDER-WITH-CERTIFICATES VM FOLDER: one job, every disk into a sparse file; believed only when the agent says OK, nothing is
// owed, and every byte came once with its hash.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"lukechampine.com/blake3"

	"hotadd/v1"
)

// coming is a disk that is being received: its file, and the ranges that have not come yet.
type coming struct {
	image *os.File
	left  []*v1.Range
}

func (c *coming) take(frame *v1.Frame) error {
	data := frame.Data
	if frame.Zero {
		data = make([]byte, frame.Length)
	}
	if len(c.left) == 0 || frame.Offset != c.left[0].Offset || uint64(frame.Length) > c.left[0].Length {
		return fmt.Errorf("disk %d: bytes at %d were not next", frame.DeviceKey, frame.Offset)
	}
	if sum := blake3.Sum256(data); uint32(len(data)) != frame.Length || !bytes.Equal(sum[:], frame.Blake3) {
		return fmt.Errorf("disk %d: the block at %d was damaged on its way", frame.DeviceKey, frame.Offset)
	}
	c.left[0].Offset += uint64(frame.Length)
	c.left[0].Length -= uint64(frame.Length)
	if c.left[0].Length == 0 {
		c.left = c.left[1:]
	}
	if frame.Zero {
		return nil
	}
	_, err := c.image.WriteAt(data, int64(frame.Offset))
	return err
}

// open makes the disk's file and says what has to come of it.
func open(opened *v1.DiskOpened, folder string) (*coming, error) {
	disk := opened.Disk
	image, err := os.Create(filepath.Join(folder, fmt.Sprintf("%d.raw", disk.DeviceKey)))
	if err != nil {
		return nil, err
	}
	left := []*v1.Range{{Offset: 0, Length: disk.CapacityBytes}}
	if opened.Map != nil && opened.Map.Scope != v1.Scope_SCOPE_WHOLE {
		left = opened.Map.Areas
	}
	return &coming{image, left}, image.Truncate(int64(disk.CapacityBytes))
}

// ended asks how a job ended whose stream broke; it ends by that, and gives everything back. While the port is closed the agent settles: ask on.
func ended(jobs v1.JobServiceClient, id string) (*v1.JobResult, error) {
	for until := time.Now().Add(10 * time.Minute); ; time.Sleep(2 * time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		result, err := jobs.GetJob(ctx, &v1.GetJobRequest{By: &v1.GetJobRequest_RequestId{RequestId: id}})
		cancel()
		late := time.Now().After(until)
		switch code := status.Code(err); {
		case err != nil && (late || (code != codes.Unavailable && code != codes.DeadlineExceeded)):
			return nil, err
		case err != nil:
		case late || result.ResumeUntil != "" || (result.State != v1.JobState_JOB_STATE_RUNNING && result.Cleanup == v1.Cleanup_CLEANUP_DONE):
			return result, nil
		}
	}
}

func backup(ctx context.Context, jobs v1.JobServiceClient, vm, folder string) (*v1.JobResult, map[int32]*coming, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // whoever returns early ends the job by it
	id := fmt.Sprintf("backup_vm-%d", time.Now().UnixNano())
	stream, err := jobs.BackupVm(ctx, &v1.BackupVmRequest{
		RequestId: id,
		Vm:        vm,
		Snapshot:  &v1.SnapshotRequest{Consistency: v1.Consistency_CONSISTENCY_PREFER_APP},
	})
	if err != nil {
		return nil, nil, err
	}
	disks := map[int32]*coming{}
	for {
		event, err := stream.Recv()
		if err == io.EOF || (err != nil && len(status.Convert(err).Proto().GetDetails()) == 0) { // cut: that is no word of the agent's
			result, err := ended(jobs, id)
			return result, disks, err
		}
		if err != nil {
			return nil, disks, err
		}
		switch item := event.Item.(type) {
		case *v1.JobEvent_Opened:
			key := item.Opened.Disk.DeviceKey
			if disks[key] == nil { // else its rest comes another way
				if disks[key], err = open(item.Opened, folder); err != nil {
					return nil, disks, err
				}
			}
		case *v1.JobEvent_Frame:
			disk := disks[item.Frame.DeviceKey]
			if disk == nil {
				return nil, disks, fmt.Errorf("a frame of disk %d, which was not opened", item.Frame.DeviceKey)
			}
			if err := disk.take(item.Frame); err != nil {
				return nil, disks, err
			}
		case *v1.JobEvent_Waiting:
			fmt.Printf("waiting, place %d: %s\n", item.Waiting.Reason.QueuePosition, item.Waiting.Reason.Message)
		case *v1.JobEvent_Result:
			return item.Result, disks, nil
		}
	}
}

// verdict is nil only for a backup.
func verdict(result *v1.JobResult, disks map[int32]*coming) error {
	if result.State != v1.JobState_JOB_STATE_OK || result.Cleanup != v1.Cleanup_CLEANUP_DONE {
		why := &v1.Reason{Message: "no reason was given"}
		if len(result.Reasons) > 0 {
			why = result.Reasons[0]
		}
		return fmt.Errorf("%s %s; next: %s (%v, %v)", why.Code, why.Message, why.NextStep, result.State, result.Cleanup)
	}
	for _, told := range result.Disks {
		disk := disks[told.Disk.DeviceKey]
		if !told.Ok || disk == nil || len(disk.left) > 0 {
			return fmt.Errorf("%s did not come whole", told.Disk.Label)
		}
		if err := disk.image.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	channel, err := connect(os.Args[1], os.Args[2])
	if err != nil {
		fail(err)
	}
	defer channel.Close()
	result, disks, err := backup(context.Background(), v1.NewJobServiceClient(channel), os.Args[3], os.Args[4])
	if err == nil {
		err = verdict(result, disks)
	}
	if err != nil {
		fail(err)
	}
	fmt.Printf("job %s: %d disks\n", result.JobId, len(disks))
}
