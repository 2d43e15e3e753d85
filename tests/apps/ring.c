// MPI: a token that goes round a ring, each rank changing it; then an allreduce of vectors.
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define LENGTH 5000

int main(int argc, char **argv) {
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int rounds = argc > 1 ? atoi(argv[1]) : 100;
    int64_t token = 1, *mine = malloc(LENGTH * sizeof *mine), *sum = malloc(LENGTH * sizeof *sum);
    for (int i = 0; i < rounds; i++) {
        for (int turn = 0; turn < 20; turn++) {
            if (rank == 0) MPI_Send(&token, 1, MPI_INT64_T, 1 % size, turn, MPI_COMM_WORLD);
            MPI_Recv(&token, 1, MPI_INT64_T, (rank + size - 1) % size, turn, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            token = (token * 48271 + rank) % 2147483647;
            if (rank != 0) MPI_Send(&token, 1, MPI_INT64_T, (rank + 1) % size, turn, MPI_COMM_WORLD);
        }
        for (int k = 0; k < LENGTH; k++) mine[k] = (int64_t)rank * k + i;
        MPI_Allreduce(mine, sum, LENGTH, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
        for (int k = 0; k < LENGTH; k++) {
            int64_t right = (int64_t)size * (size - 1) / 2 * k + (int64_t)size * i;
            if (sum[k] != right) {
                printf("rank %d, round %d: element %d is %ld, not %ld\n", rank, i, k, (long)sum[k], (long)right);
                MPI_Abort(MPI_COMM_WORLD, 1);
            }
        }
        if (rank == 0) printf("%d %ld\n", i, (long)token), fflush(stdout);
    }
    MPI_Finalize();
    return 0;
}
