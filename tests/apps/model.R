# Regressions, simulations, closures, data frames and garbage.
steps <- as.integer(commandArgs(trailingOnly = TRUE)[1])
set.seed(7)
kept <- list()
for (step in seq_len(steps)) {
    frame <- data.frame(x = rnorm(400), z = runif(400), group = sample(letters[1:5], 400, replace = TRUE))
    frame$y <- 2 * frame$x - frame$z + rnorm(400)
    fit <- lm(y ~ x + z + group, data = frame)
    means <- tapply(frame$y, frame$group, mean)
    kept[[step %% 20 + 1]] <- solve(crossprod(matrix(rnorm(3600), 60)))
    text <- paste(format(coef(fit)[1:3], digits = 6), collapse = " ")
    cat(step, text, format(sum(means), digits = 6), format(sum(kept[[1]]), digits = 6), "\n")
}
cat("end", length(kept), "\n")
