import java.io.*;
import java.net.*;
import java.util.zip.CRC32;

/** A server with a thread for each of eight connections, and their clients: lines go there, their checksums come back. */
public class Echo {
    static long sum(byte[] bytes) {
        CRC32 crc = new CRC32();
        crc.update(bytes);
        return crc.getValue();
    }

    static void serve(Socket socket) {
        try (socket; var in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
                var out = new DataOutputStream(socket.getOutputStream())) {
            for (;;) {
                byte[] bytes = new byte[in.readInt()];
                in.readFully(bytes);
                out.writeLong(sum(bytes));
            }
        } catch (EOFException end) {
            // The client is done.
        } catch (IOException e) {
            System.out.println(e);
            System.exit(1);
        }
    }

    public static void main(String[] args) throws Exception {
        int rounds = Integer.parseInt(args[0]);
        try (var listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            var accepting = new Thread(() -> {
                try {
                    for (;;) {
                        Socket socket = listener.accept();
                        new Thread(() -> serve(socket)).start();
                    }
                } catch (IOException closed) {
                    // The listener is closed at the end.
                }
            });
            accepting.start();
            Socket[] sockets = new Socket[8];
            for (int n = 0; n < sockets.length; n++) {
                sockets[n] = new Socket(listener.getInetAddress(), listener.getLocalPort());
                sockets[n].setTcpNoDelay(true);
            }
            long total = 0;
            for (int i = 0; i < rounds; i++) {
                for (int n = 0; n < sockets.length; n++) {
                    byte[] bytes = new byte[1 + (i * 7919 + n) % 200000];
                    for (int k = 0; k < bytes.length; k++) bytes[k] = (byte) (k * n + i);
                    var out = new DataOutputStream(sockets[n].getOutputStream());
                    out.writeInt(bytes.length);
                    out.write(bytes);
                    long answer = new DataInputStream(sockets[n].getInputStream()).readLong();
                    if (answer != sum(bytes)) throw new IOException("a wrong sum in round " + i);
                    total += answer;
                }
                System.out.println(i + " " + total);
            }
            for (Socket socket : sockets) socket.close();
        }
    }
}
