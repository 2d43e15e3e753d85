import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.IntStream;

/** A pool of threads, parallel streams, code hot enough to be compiled, and garbage enough to be collected. */
public class Collections {
    static long mix(long x) {
        x = (x ^ (x >>> 30)) * 0xbf58476d1ce4e5b9L;
        x = (x ^ (x >>> 27)) * 0x94d049bb133111ebL;
        return x ^ (x >>> 31);
    }

    static long job(int n) {
        Map<Long, String> map = new HashMap<>();
        for (int i = 0; i < 3000; i++) {
            map.put(mix((long) n * 3000 + i), "value " + i);
        }
        long sum = 0;
        for (Map.Entry<Long, String> e : new TreeMap<>(map).entrySet()) {
            sum = sum * 31 + e.getKey() + e.getValue().hashCode();
        }
        return sum;
    }

    public static void main(String[] args) throws Exception {
        int steps = Integer.parseInt(args[0]);
        ExecutorService pool = Executors.newFixedThreadPool(3);
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        for (int step = 0; step < steps; step++) {
            List<Callable<Long>> jobs = new ArrayList<>();
            for (int i = 0; i < 6; i++) {
                int n = step * 6 + i;
                jobs.add(() -> job(n));
            }
            long sum = 0;
            for (Future<Long> f : pool.invokeAll(jobs)) {
                sum = sum * 17 + f.get();
            }
            int from = step;
            long primes = IntStream.range(from * 100, from * 100 + 2000).parallel()
                .filter(n -> n > 1 && IntStream.rangeClosed(2, (int) Math.sqrt(n)).noneMatch(d -> n % d == 0)).count();
            byte[] hash = digest.digest(Long.toString(sum + primes).getBytes());
            System.out.printf("%d %016x %d %02x%02x%n", step, sum, primes, hash[0], hash[1]);
        }
        pool.shutdown();
        System.out.println("end");
    }
}
